"""Celery with its defaults on RabbitMQ 4, with what that calls deprecated switched off."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from servers.process import wait_until

from .conftest import QUORUM, NewStage


@pytest.mark.parametrize(
    "settings",
    [{}, QUORUM, QUORUM | {"worker_detect_quorum_queues": False}],
    ids=["classic", "quorum", "quorum_unknown"],
)
def test_tasks_remote_control_and_events(
    rabbitmq_4_url: str, new_stage: NewStage, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """More tasks wait for their time than a worker fetches; others ask it and hear from it."""
    stage = new_stage(rabbitmq_4_url, **settings)
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
