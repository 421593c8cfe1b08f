"""The environment variables that have connections and channels write what they do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys
import kombu_rs
if sys.argv[1] != "KOMBU_LOG_DEBUG":
    logging.basicConfig(level=logging.DEBUG)
with kombu_rs.Connection("memory://") as connection:
    queue = connection.SimpleQueue("x")
    queue.put("1")
    queue.get(timeout=10).ack()
"""
CONNECTION = ["establishing connection...", "connection established", "create channel", "closed"]
CHANNEL = ["queue_declare(queue='x'", "basic_publish(", "basic_consume(", "close()"]


@pytest.mark.parametrize(
    ("variable", "shown", "hidden"),
    [
        ("KOMBU_LOG_CONNECTION", CONNECTION, CHANNEL),
        ("KOMBU_LOG_CHANNEL", CHANNEL, CONNECTION),
        ("KOMBU_LOG_DEBUG", [*CONNECTION, *CHANNEL], []),
    ],
)
def test_what_they_show(variable: str, shown: list[str], hidden: list[str]) -> None:
    """With the last one no logging has to be set up."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, variable],
        env={name: value for name, value in os.environ.items() if not name.startswith("KOMBU_LOG")}
        | {variable: "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [text for text in shown if text not in done.stderr] == []
    assert [text for text in hidden if text in done.stderr] == []
