"""A pytest plugin, named with ``-p``: makes sure that everything that says `kombu` got kombu_rs."""

from __future__ import annotations

import os
import sys

import kombu

import kombu_rs

if kombu is not kombu_rs:
    raise RuntimeError("run this through `kombu-rs run`")

if "KOMBU_RS_PEERS_REDIS_PORT" in os.environ:
    # Some unit tests connect to the default port, of the URL's scheme or of redis-py's pools.
    # Theirs is the tests' own server.
    from kombu_rs.transport import redis
    from kombu_rs.transport.redis import parameters

    redis.Transport.default_port = int(os.environ["KOMBU_RS_PEERS_REDIS_PORT"])
    parameters.DEFAULT_PORT = redis.Transport.default_port


def pytest_terminal_summary(terminalreporter) -> None:
    """Say what ran, and fail when a module of an installed Kombu was loaded as well.

    Raises:
        RuntimeError: some `kombu.x` is not kombu_rs's.
    """
    names = [name for name in sys.modules if name == "kombu" or name.startswith("kombu.")]
    foreign = [
        name for name in names if sys.modules[name].__name__.split(".", 1)[0] != kombu_rs.__name__
    ]
    terminalreporter.write_line(f"kombu-rs {kombu_rs.__version__} as {len(names)} kombu modules")
    if foreign:
        raise RuntimeError(f"not aliased: {', '.join(foreign)}")
