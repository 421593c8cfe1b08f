"""What every Celery worker has to do, for each pool on each broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from celery import chain, group

import kombu_rs
from servers.rabbitmq import RabbitMQServer
from servers.redis import RedisServer

from .conftest import QUORUM, Stage, settings_for

COMBINATIONS = [
    ("redis", "solo"),
    ("redis", "prefork"),
    ("redis", "threads"),
    ("redis", "gevent"),
    ("rabbitmq", "solo"),
    ("rabbitmq", "prefork"),
    ("rabbitmq", "threads"),
    ("rabbitmq", "gevent"),
    ("quorum", "solo"),
    ("quorum", "prefork"),
    ("quorum", "threads"),
    ("quorum", "gevent"),
    ("sqlite", "solo"),
    ("sqlite", "prefork"),
    ("sqlite", "threads"),
]

#: How many seconds before its time a timer of gevent may go off.
EARLY = 0.01

#: Remote control and events need fanout between processes, which SQL tables do not give.
broadcasting = pytest.mark.parametrize(
    "stage", [c for c in COMBINATIONS if c[0] != "sqlite"], ids="-".join, indirect=True
)


def empty_broker(name: str, request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> str:
    """The URL of a broker that nothing is in; its server is started when it is first needed."""
    if name == "redis":
        redis: RedisServer = request.getfixturevalue("module_redis")
        redis.command("FLUSHALL")
        return redis.url()
    if name in ("rabbitmq", "quorum"):
        rabbitmq: RabbitMQServer = request.getfixturevalue("rabbitmq_server")
        vhost = rabbitmq.new_vhost()
        stack.callback(rabbitmq.delete_vhost, vhost)
        return rabbitmq.url(vhost)
    return f"sqla+sqlite:///{folder / 'broker.sqlite'}"


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """One worker for all tests below."""
    broker, pool = request.param
    folder = tmp_path_factory.mktemp(f"{broker}-{pool}")
    with ExitStack() as stack:
        url = empty_broker(broker, request, folder, stack)
        settings = settings_for(url, folder) | (QUORUM if broker == "quorum" else {})
        made = Stage(settings, folder, stack)
        made.worker(pool=pool, arguments=["--events"])
        yield made


def test_the_worker_runs_on_us(stage: Stage) -> None:
    facts = stage.send("whoami").get(timeout=30)
    assert facts["name"] == "kombu_rs"
    assert facts["file"] == str(Path(kombu_rs.__file__).resolve().parent)
    assert facts["modules"] == []


def test_results_of_many_tasks(stage: Stage) -> None:
    results = [stage.send("add", n, n) for n in range(200)]
    assert [r.get(timeout=30) for r in results] == [2 * n for n in range(200)]


def test_arguments_of_many_types(stage: Stage) -> None:
    arguments = ["ä€😀", 1.5, None, True, {"deep": [1, [2, {"x": "y"}]]}, 2**70, ""]
    args, kwargs = stage.send("echo", *arguments, kwargs={"ключ": "значение"}).get(timeout=30)
    assert args == arguments
    assert kwargs == {"ключ": "значение"}


def test_a_task_that_raises(stage: Stage) -> None:
    result = stage.send("fail", "no such luck")
    with pytest.raises(ValueError, match="no such luck"):
        result.get(timeout=30)


def test_a_countdown_is_waited_for(stage: Stage) -> None:
    sent = time.time()
    late = stage.send("delivery", countdown=1.5)
    soon = stage.send("delivery")
    assert soon.get(timeout=30)["at"] < sent + 1.5
    assert late.get(timeout=30)["at"] >= sent + 1.5 - EARLY


def test_an_eta_with_a_time_zone(stage: Stage) -> None:
    eta = datetime.now(timezone(timedelta(hours=9))) + timedelta(seconds=1)
    assert stage.send("delivery", eta=eta).get(timeout=30)["at"] >= eta.timestamp() - EARLY


def test_more_waiting_etas_than_prefetch(stage: Stage) -> None:
    """Tasks that wait for their time do not use up the prefetch count."""
    waiting = [stage.send("add", n, 1, countdown=4) for n in range(20)]
    assert stage.send("add", 1, 1).get(timeout=3.5) == 2
    assert [r.get(timeout=30) for r in waiting] == [n + 1 for n in range(20)]


def test_an_expired_task_is_not_run(stage: Stage) -> None:
    result = stage.send("add", 1, 1, countdown=0.5, expires=0.1)
    assert stage.send("add", 2, 2, countdown=1).get(timeout=30) == 4
    assert result.state in ("PENDING", "REVOKED")


def test_retries(stage: Stage) -> None:
    assert stage.send("flaky", 2).get(timeout=30) == 2


def test_chain_and_group(stage: Stage) -> None:
    s = stage.signature
    assert chain(s("add", 1, 2), s("add", 3), s("add", 4)).apply_async().get(timeout=30) == 10
    together = group(s("add", n, n) for n in range(10)).apply_async()
    assert together.get(timeout=30) == [2 * n for n in range(10)]


@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack", "pickle"])
@pytest.mark.parametrize("compression", [None, "zlib", "bzip2"])
def test_serializers_and_compressions(
    stage: Stage, serializer: str, compression: str | None
) -> None:
    result = stage.send("add", "a" * 500, "b", serializer=serializer, compression=compression)
    assert result.get(timeout=30) == "a" * 500 + "b"


def test_what_the_transport_says_about_fanout(stage: Stage) -> None:
    with stage.app.connection_for_read() as connection:
        kinds = connection.transport.implements.exchange_type
    assert ("fanout" in kinds) == (not stage.settings["broker_url"].startswith("sqla"))


@broadcasting
def test_ping_and_other_remote_control(stage: Stage) -> None:
    inspect = stage.app.control.inspect(timeout=5, limit=1)
    assert inspect.ping() == {"worker@test": {"ok": "pong"}}
    queues = inspect.active_queues()
    assert [q["name"] for q in queues["worker@test"]] == ["celery"]
    assert "servers.celery_app.add" in inspect.registered()["worker@test"]
    stats = inspect.stats()["worker@test"]
    assert stats["total"]["servers.celery_app.add"] > 0


@broadcasting
def test_a_consumer_added_while_it_runs(stage: Stage) -> None:
    control = stage.app.control
    control.add_consumer("extra", reply=True, timeout=5, limit=1)
    assert stage.send("add", 1, 2, queue="extra").get(timeout=30) == 3
    control.cancel_consumer("extra", reply=True, timeout=5, limit=1)


@broadcasting
def test_a_revoked_task_is_not_run(stage: Stage) -> None:
    result = stage.send("add", 1, 1, countdown=2)
    stage.app.control.revoke(result.id, reply=True, timeout=5, limit=1)
    with pytest.raises(Exception, match="revoked"):
        result.get(timeout=30)


@broadcasting
def test_events(stage: Stage) -> None:
    """A receiver sees what happens to a task."""
    seen: list[str] = []
    wanted = ["task-received", "task-started", "task-succeeded"]

    with stage.app.connection_for_read() as connection:
        receiver = stage.app.events.Receiver(
            connection, handlers={"*": lambda event: seen.append(event["type"])}
        )
        consumer = receiver.itercapture(limit=None, timeout=10, wakeup=False)
        next(consumer)
        stage.send("add", 1, 1)
        while not set(wanted) <= set(seen):
            next(consumer)
    assert [s for s in seen if s in wanted][:3] == wanted
