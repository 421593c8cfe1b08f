"""Runs a command with servers beside it: ``python -m servers.serve redis -- COMMAND...``.

The command finds their URLs in its environment: ``KOMBU_RS_TEST_REDIS``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

from .redis import RedisServer

SERVERS = {"redis": (RedisServer, "KOMBU_RS_TEST_REDIS")}


def main(arguments: list[str]) -> int:
    """Starts the named servers, runs the command, returns its exit code."""
    if "--" not in arguments:
        print(__doc__, file=sys.stderr)
        return 2
    at = arguments.index("--")
    names, command = arguments[:at], arguments[at + 1 :]
    environment = dict(os.environ)
    with ExitStack() as stack:
        for name in names:
            if name not in SERVERS:
                print(f"unknown server {name!r}: there are {', '.join(SERVERS)}", file=sys.stderr)
                return 2
            kind, variable = SERVERS[name]
            environment[variable] = stack.enter_context(kind()).url()
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
