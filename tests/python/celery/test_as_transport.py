"""Stock Celery on stock Kombu: the broker URL alone chooses our transport."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from celery import chain

from servers.rabbitmq import RabbitMQServer
from servers.redis import RedisServer

from .conftest import Stage, settings_for

COMBINATIONS = [
    ("redis", "solo"),
    ("redis", "prefork"),
    ("sqlite", "prefork"),
    ("amqp", "solo"),
    ("amqp", "prefork"),
]

#: Remote control needs fanout between processes, which SQL tables do not give.
broadcasting = pytest.mark.parametrize(
    "stage", [c for c in COMBINATIONS if c[0] != "sqlite"], ids="-".join, indirect=True
)


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def stage(
    request: pytest.FixtureRequest,
    module_redis: RedisServer,
    rabbitmq_server: RabbitMQServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    """A worker on stock Kombu, and an application in this process on ours."""
    broker, pool = request.param
    folder = tmp_path_factory.mktemp(f"transport-{broker}-{pool}")
    module_redis.command("FLUSHALL")
    url = {
        "redis": module_redis.url,
        "sqlite": lambda: f"sqla+sqlite:///{folder / 'broker.sqlite'}",
        "amqp": lambda: rabbitmq_server.url(rabbitmq_server.new_vhost()),
    }[broker]()
    settings = settings_for(url, folder)
    with ExitStack() as stack:
        made = Stage(settings, folder, stack)
        named = settings | {"broker_url": f"kombu-rs+{url}"}
        made.worker(pool=pool, settings=named, as_transport=True)
        yield made


def test_kombu_is_stock_and_the_transport_is_ours(stage: Stage) -> None:
    facts = stage.send("whoami").get(timeout=30)
    assert facts["name"] == "kombu"
    assert facts["transport"] in ("kombu_rs.transport.native", "kombu_rs.transport.amqp.transport")


def test_tasks_retries_and_chains(stage: Stage) -> None:
    results = [stage.send("add", n, n) for n in range(100)]
    assert [result.get(timeout=30) for result in results] == [2 * n for n in range(100)]
    assert stage.send("flaky", 2).get(timeout=30) == 2
    worked = chain(stage.signature("add", 1, 2), stage.signature("add", 3)).apply_async()
    assert worked.get(timeout=30) == 6


@broadcasting
def test_remote_control(stage: Stage) -> None:
    answers = stage.app.control.inspect(timeout=5, limit=1).ping()
    assert answers == {"worker@test": {"ok": "pong"}}
