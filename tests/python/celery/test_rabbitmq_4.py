"""Celery with its defaults on RabbitMQ 4, with what that calls deprecated switched off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers.process import wait_until
from servers.rabbitmq import RabbitMQServer, rabbitmq_of_tomorrow

from .conftest import QUORUM, NewStage


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQServer]:
    """The node that these tests share."""
    with rabbitmq_of_tomorrow() as server:
        yield server


@pytest.fixture
def url(node: RabbitMQServer) -> Iterator[str]:
    """An empty virtual host of it."""
    name = node.new_vhost()
    yield node.url(name)
    node.delete_vhost(name)


@pytest.mark.parametrize(
    "settings",
    [{}, QUORUM, QUORUM | {"worker_detect_quorum_queues": False}],
    ids=["classic", "quorum", "quorum_unknown"],
)
def test_tasks_remote_control_and_events(
    url: str, new_stage: NewStage, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """More tasks wait for their time than a worker fetches; others ask it and hear from it."""
    stage = new_stage(url, **settings)
    worker = stage.worker(concurrency=1, pool="prefork", arguments=("--task-events",))
    seen: list[str] = []
    with stage.app.connection_for_read() as connection:
        receiver = stage.app.events.Receiver(
            connection, handlers={"task-succeeded": lambda event: seen.append(event["uuid"])}
        )
        watching = threading.Thread(target=receiver.capture, kwargs={"timeout": 60}, daemon=True)
        watching.start()
        late = [stage.send("delivery", countdown=5) for _ in range(20)]
        assert stage.send("add", 1, 1).get(timeout=30) == 2
        (answer,) = stage.app.control.ping(timeout=10, limit=1)
        assert answer == {worker.name: {"ok": "pong"}}
        for result in late:
            result.get(timeout=30)
        wait_until(lambda: {result.id for result in late} <= set(seen), 30, "all events")
        receiver.should_stop = True
        watching.join(30)
        assert not watching.is_alive()
    worker.check()
