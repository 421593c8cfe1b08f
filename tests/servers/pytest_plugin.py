"""Fixtures over the servers. Session servers are shared and emptied for each test that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .certificates import Authority
from .process import temporary_folder
from .proxy import FaultProxy
from .rabbitmq import RabbitMQServer, rabbitmq_of_tomorrow
from .redis import RedisServer
from .redis_cluster import RedisCluster


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """The Redis server that tests share; take `redis_server` instead, which is emptied."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The shared Redis server, emptied. Do not stop it: for that take `new_redis`."""
    shared_redis.command("FLUSHALL")
    return shared_redis


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty database of the shared server."""
    return redis_server.url()


@pytest.fixture
def new_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts a Redis server of the test's own: ``new_redis(appendonly=True, ...)``."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RedisServer(**options))


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """The Redis Cluster of three masters that tests share, each with a hash tag of its own.

    Slots may be moved. Do not stop nodes, for that take `new_redis_cluster`.
    """
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def new_redis_cluster() -> Iterator[Callable[..., RedisCluster]]:
    """Starts a Redis Cluster of the test's own: ``new_redis_cluster(replicas=1, ...)``."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RedisCluster(**options))


@pytest.fixture(scope="session")
def rabbitmq_server(authority: Authority) -> Iterator[RabbitMQServer]:
    """The RabbitMQ node that tests share, with a TLS listener; do not stop it."""
    with RabbitMQServer(tls=authority) as server:
        yield server


@pytest.fixture
def rabbitmq_vhost(rabbitmq_server: RabbitMQServer) -> Iterator[str]:
    """An empty virtual host of the shared node, gone with its connections after the test."""
    with rabbitmq_server.vhost() as name:
        yield name


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str) -> str:
    """The URL of an empty virtual host of the shared node."""
    return rabbitmq_server.url(rabbitmq_vhost)


@pytest.fixture(scope="session")
def rabbitmq_4_server() -> Iterator[RabbitMQServer]:
    """The node of RabbitMQ 4 that tests share, without what it calls deprecated; do not stop it."""
    with rabbitmq_of_tomorrow() as server:
        yield server


@pytest.fixture
def rabbitmq_4_url(rabbitmq_4_server: RabbitMQServer) -> Iterator[str]:
    """The URL of an empty virtual host of that node, gone with its connections after the test."""
    with rabbitmq_4_server.vhost() as name:
        yield rabbitmq_4_server.url(name)


@pytest.fixture
def new_proxy() -> Iterator[Callable[[int], FaultProxy]]:
    """Puts a proxy of the test's own before a port: ``new_proxy(server.port)``."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(FaultProxy(port))


@pytest.fixture(scope="session")
def authority() -> Authority:
    """A certificate authority."""
    return Authority(temporary_folder("tls"))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A `sqla+sqlite` URL of a database file that is not there yet."""
    return f"sqla+sqlite:///{tmp_path / 'broker.sqlite'}"


@pytest.fixture
def sqlalchemy_url(sqlite_url: str) -> str:
    """The same, for SQLAlchemy: the argument is none of the native engine's."""
    return f"{sqlite_url}?cached_statements=64"
