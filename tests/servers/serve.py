"""Runs a command with servers beside it: ``python -m servers.serve redis -- COMMAND...``.

The command finds their URLs in its environment. For Redis: ``KOMBU_RS_TEST_REDIS``, a plain server,
and ``KOMBU_RS_TEST_REDIS_OTHERS``, other versions and servers that refuse something: ``name=url``
each; ``KOMBU_RS_TEST_REDIS_BARE`` is the one of them that refuses most;
``KOMBU_RS_TEST_REDISCLUSTER``, a Redis Cluster. For RabbitMQ: ``KOMBU_RS_TEST_RABBITMQ``;
``..._TLS``, with TLS; ``..._CA``, the authority of its certificate; and ``..._API``, host and port
of its management API. ``rabbitmq-4`` in place of ``rabbitmq`` is RabbitMQ 4 under the same names,
without what it calls deprecated.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

from .builds import BUILDS, SYSTEM
from .certificates import Authority
from .process import temporary_folder
from .rabbitmq import RabbitMQServer, rabbitmq_of_tomorrow
from .redis import RedisServer
from .redis_cluster import RedisCluster
from .refusals import refusing

#: Ways to be refused that differ for a transport; others are tried in Python.
REFUSING = ("no-tracking", "no-resp3", "no-scripts", "bare")


def redis(stack: ExitStack) -> dict[str, str]:
    """Starts the Redis servers until `stack` ends; the variables that name them."""
    plain = stack.enter_context(RedisServer())
    others = {
        name if name.startswith("redis") else f"redis-{name}": stack.enter_context(
            RedisServer(build=name)
        )
        for name in BUILDS
        if name != SYSTEM
    } | {f"redis-{name}": stack.enter_context(refusing(name)) for name in REFUSING}
    return {
        "KOMBU_RS_TEST_REDIS": plain.url(),
        "KOMBU_RS_TEST_REDIS_BARE": others["redis-bare"].url(),
        "KOMBU_RS_TEST_REDIS_OTHERS": " ".join(f"{n}={s.url()}" for n, s in others.items()),
    }


def rediscluster(stack: ExitStack) -> dict[str, str]:
    """Starts a Redis Cluster until `stack` ends; the variable that names it."""
    return {"KOMBU_RS_TEST_REDISCLUSTER": stack.enter_context(RedisCluster()).url()}


def rabbitmq(
    stack: ExitStack, make: Callable[..., RabbitMQServer] = RabbitMQServer
) -> dict[str, str]:
    """Starts RabbitMQ until `stack` ends; the variables that name it."""
    folder = temporary_folder("authority")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    authority = Authority(folder)
    server = stack.enter_context(make(tls=authority))
    return {
        "KOMBU_RS_TEST_RABBITMQ": server.url(),
        "KOMBU_RS_TEST_RABBITMQ_TLS": server.url(tls=True),
        "KOMBU_RS_TEST_RABBITMQ_CA": str(authority.ca),
        "KOMBU_RS_TEST_RABBITMQ_API": f"127.0.0.1:{server.management_port}",
    }


SERVERS = {
    "redis": redis,
    "rediscluster": rediscluster,
    "rabbitmq": rabbitmq,
    "rabbitmq-4": lambda stack: rabbitmq(stack, rabbitmq_of_tomorrow),
}


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
            environment |= SERVERS[name](stack)
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
