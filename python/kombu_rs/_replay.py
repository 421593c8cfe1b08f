"""``kombu-rs replay URL QUEUE``: move dead letters back to the queues that they came from."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .connection import Connection
from .exceptions import KombuError

__all__ = ("main",)


def _option(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kombu-rs replay",
        description="Move dead letters back to the queues that they came from, the oldest first. "
        "It can be interrupted: each message is in one queue or the other.",
    )
    parser.add_argument("url", help="the broker, as in redis://localhost/0")
    parser.add_argument("queue", help="the queue of dead letters")
    parser.add_argument("--limit", metavar="N", type=_count, help="move so many at most")
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        type=_option,
        action="append",
        default=[],
        help="a transport option that the workers have, as global_keyprefix=app: (JSON or text)",
    )
    return parser


def main(arguments: list[str]) -> int:
    """Do it; returns the exit status.

    Arguments:
        arguments: those behind ``replay``.
    """
    given = _parser().parse_args(arguments)
    try:
        with Connection(given.url, transport_options=dict(given.option)) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            channel = connection.default_channel
            replay = getattr(channel, "replay_dead_letters", None)
            if replay is None:
                raise NotImplementedError("dead letters are kept on Redis only")
            count = replay(given.queue, given.limit)
    except (KombuError, OSError, ValueError, TypeError, NotImplementedError) as exc:
        print(f"kombu-rs replay: {exc}", file=sys.stderr)
        return 1
    print(f"moved {count} dead letters out of {given.queue!r}")
    return 0
