"""Runs a suite that others wrote on kombu-rs: ``python -m peers.run SUITE [pytest arguments]``.

The interpreter is that of an environment with kombu_rs and what the suite needs
(`requirements/peers-*.txt`); the sources are kept in ``--cache``. Without pytest arguments the
run is held to the whole list in `expected/SUITE.txt`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from servers.rabbitmq import RabbitMQServer
from servers.redis import RedisServer

from .expected import FLOOR_VARIABLE, LIST_VARIABLE
from .sources import CELERY, KOMBU, Source

HERE = Path(__file__).resolve().parent


def _redis_for_units(stack: ExitStack) -> dict[str, str]:
    server = stack.enter_context(RedisServer())
    return {"KOMBU_RS_PEERS_REDIS_PORT": str(server.port)}


def _redis(stack: ExitStack) -> dict[str, str]:
    server = stack.enter_context(RedisServer())
    return {"REDIS_HOST": "127.0.0.1", "REDIS_6379_TCP": str(server.port)}


def _rabbitmq(stack: ExitStack) -> dict[str, str]:
    server = stack.enter_context(RabbitMQServer())
    return {"RABBITMQ_HOST": "127.0.0.1", "RABBITMQ_5672_TCP": str(server.port)}


def _nothing(stack: ExitStack) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Suite:
    """What to run, how many of its tests have to pass, and the servers it needs.

    The servers answer with variables of the environment.
    """

    source: Source
    floor: int
    paths: tuple[str, ...]
    servers: Callable[[ExitStack], dict[str, str]] = _nothing


SUITES = {
    "kombu-unit": Suite(KOMBU, 1960, ("t/unit",), _redis_for_units),
    "kombu-redis": Suite(
        KOMBU, 96, ("t/integration/test_redis.py", "t/integration/test_redis_brpop_qos.py"), _redis
    ),
    "kombu-amqp": Suite(KOMBU, 50, ("t/integration/test_py_amqp.py",), _rabbitmq),
    "celery-unit": Suite(CELERY, 5500, ("t/unit",)),
}


def main(arguments: list[str]) -> int:
    """Runs one suite and returns pytest's exit code."""
    parser = argparse.ArgumentParser(prog="peers.run", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--python", required=True, help="interpreter of the suite's environment")
    parser.add_argument("--cache", type=Path, required=True, help="where the sources are kept")
    known, extra = parser.parse_known_args(arguments)
    suite = SUITES[known.suite]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        LIST_VARIABLE: str(HERE / "expected" / f"{known.suite}.txt"),
    }
    if not extra:
        environment[FLOOR_VARIABLE] = str(suite.floor)
    # As a user would: also the processes that a test starts get kombu-rs.
    pytest = [known.python, "-m", "kombu_rs.launcher", "run"]
    pytest += [known.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    pytest += ["-p", "peers.under_alias", "-p", "peers.expected"]
    if not any(argument.startswith("t/") for argument in extra):
        pytest += suite.paths
    with ExitStack() as stack:
        # Some tests leave files in the temporary folder.
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        environment |= {"TMPDIR": scratch, **suite.servers(stack)}
        folder = suite.source.folder(known.cache.absolute())
        return subprocess.run([*pytest, *extra], cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
