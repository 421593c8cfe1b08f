"""Ending a worker, politely and not: no task may get lost."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servers.process import wait_until
from servers.rabbitmq import RabbitMQServer
from servers.redis import RedisServer

from .conftest import NewStage, Stage

#: Seconds after which a claim of a dead worker is given to another.
VISIBILITY = 2


@pytest.fixture(params=["redis", "sqlite", "rabbitmq"])
def stage(request: pytest.FixtureRequest, new_stage: NewStage) -> Stage:
    """A stage whose claims expire soon and whose tasks are acknowledged when done."""
    settings: dict[str, Any] = {"task_acks_late": True, "task_reject_on_worker_lost": True}
    if request.param == "redis":  # the others see at once that a worker is gone
        settings["broker_transport_options"] = {"visibility_timeout": VISIBILITY}
    return new_stage(request.getfixturevalue(f"{request.param}_url"), **settings)


@pytest.mark.parametrize("pool", ["solo", "prefork", "threads"])
def test_a_running_task_is_finished_and_the_rest_goes_back(stage: Stage, pool: str) -> None:
    worker = stage.worker(pool=pool, concurrency=1)
    started, release = stage.folder / "started", stage.folder / "release"
    running = stage.send("hold", str(started), str(release))
    wait_until(started.exists, 30, "the task to start")
    rest = [stage.send("add", n, n) for n in range(20)]
    worker.send(signal.SIGTERM)
    release.touch()
    assert worker.wait(20) == 0
    assert "Traceback" not in worker.log_text()
    assert running.get(timeout=5) == "released"
    stage.worker(pool=pool, concurrency=1, name="next")
    assert [r.get(timeout=30) for r in rest] == [2 * n for n in range(20)]


@pytest.mark.parametrize("whom", ["main", "all"])
def test_kill_loses_no_task(stage: Stage, tmp_path: Path, whom: str) -> None:
    """Kill -9 in the middle of a run like the demo's; another worker does what is left."""
    notes = tmp_path / "notes"
    worker = stage.worker(pool="prefork", name="first")
    sent = [
        stage.send("note", str(notes), f"{n}", 0.002, countdown=1 if n % 10 == 0 else None)
        for n in range(300)
    ]
    wait_until(lambda: _lines(notes) >= 60, 60, "some tasks to be done")
    worker.kill_all() if whom == "all" else worker.kill()
    assert _lines(notes) < 300
    stage.worker(pool="prefork", name="second")
    assert [r.get(timeout=60) for r in sent] == [f"{n}" for n in range(300)]
    times = Counter(notes.read_text().split())
    assert set(times) == {f"{n}" for n in range(300)}
    # What ran at the moment of the kill may run again, no more than what was claimed.
    again = {n for n, count in times.items() if count > 1}
    assert len(again) <= 2 * 4 + 30, again


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_restart_of_the_server(
    new_redis: Callable[..., RedisServer], new_stage: NewStage
) -> None:
    """The worker goes on within five seconds of its server being back."""
    server = new_redis(appendonly=True)
    stage = new_stage(server.url())
    stage.worker(pool="prefork")
    assert stage.send("add", 1, 1).get(timeout=30) == 2
    server.kill()
    server.start()
    assert stage.send("add", 2, 2).get(timeout=5) == 4


def test_a_cut_and_a_reset_connection(
    redis_server: RedisServer, new_stage: NewStage, new_proxy: Callable
) -> None:
    """Broken connections of the worker are made anew and it consumes again within five seconds."""
    proxy = new_proxy(redis_server.port)
    direct = new_stage(redis_server.url())
    through = direct.settings | {"broker_url": f"redis://127.0.0.1:{proxy.port}/0"}
    direct.worker(pool="prefork", settings=through)
    assert direct.send("add", 1, 1).get(timeout=30) == 2
    for fault in (proxy.cut, proxy.reset, redis_server.drop_clients):
        fault()
        assert direct.send("add", 2, 2).get(timeout=5) == 4


def test_a_worker_in_its_time_of_grace(
    redis_server: RedisServer, new_stage: NewStage, new_proxy: Callable, tmp_path: Path
) -> None:
    """The worker's event loop goes on over another link, and Celery hears of nothing."""
    proxy = new_proxy(redis_server.port)
    stage = new_stage(redis_server.url())
    through = stage.settings | {
        "broker_url": f"redis://127.0.0.1:{proxy.port}/0",
        "broker_transport_options": {"reconnect_grace": 30},
        "task_acks_late": True,
    }
    worker = stage.worker(
        pool="prefork",
        settings=through,
        arguments=["--without-gossip", "--without-mingle", "--without-heartbeat"],
    )
    notes = tmp_path / "notes"
    result = stage.send("note", str(notes), "one", 1.0)
    wait_until(lambda: redis_server.command("LLEN", "celery") == 0, 10, "the task to be taken")
    proxy.refuse()
    proxy.reset()
    assert result.get(timeout=10) == "one"
    proxy.heal()
    assert stage.send("add", 1, 1).get(timeout=10) == 2
    wait_until(lambda: redis_server.command("HLEN", "unacked") == 0, 10, "the acknowledgements")
    assert notes.read_text() == "one\n"
    assert "onnection to broker lost" not in worker.log_text()


def test_broken_connections_to_rabbitmq(
    rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str, new_stage: NewStage, new_proxy: Callable
) -> None:
    """The same with the AMQP transport."""
    proxy = new_proxy(rabbitmq_server.port)
    direct = new_stage(rabbitmq_server.url(rabbitmq_vhost))
    through = direct.settings | {"broker_url": f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}"}
    direct.worker(pool="prefork", settings=through)
    assert direct.send("add", 1, 1).get(timeout=30) == 2
    for fault in (proxy.cut, proxy.reset, lambda: rabbitmq_server.drop_clients(rabbitmq_vhost)):
        fault()
        assert direct.send("add", 2, 2, retry=True).get(timeout=5) == 4


def test_a_fault_while_a_task_runs(
    redis_server: RedisServer, new_stage: NewStage, new_proxy: Callable, tmp_path: Path
) -> None:
    """A connection that breaks under a running task does not make it run twice at once."""
    proxy = new_proxy(redis_server.port)
    stage = new_stage(redis_server.url())
    through = stage.settings | {"broker_url": f"redis://127.0.0.1:{proxy.port}/0"}
    stage.worker(pool="prefork", settings=through)
    notes = tmp_path / "notes"
    result = stage.send("note", str(notes), "one", 1.0)
    wait_until(lambda: redis_server.command("LLEN", "celery") == 0, 10, "the task to be taken")
    proxy.reset()
    assert result.get(timeout=10) == "one"
    assert stage.send("add", 1, 1).get(timeout=10) == 2
    assert notes.read_text() == "one\n"
