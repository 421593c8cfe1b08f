"""Workers on RabbitMQ's queues of both kinds when things end, and when tasks have to wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers.process import wait_until
from servers.rabbitmq import RabbitMQServer

from .conftest import QUORUM, NewStage, Stage

KINDS = {"classic": {}, "quorum": QUORUM}


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQServer]:
    """A node that the tests of this module may stop."""
    with RabbitMQServer() as server:
        yield server


def waiting_in(stage: Stage) -> int:
    """How many messages of the queue `celery` no worker has fetched."""
    with stage.app.connection_for_read() as connection:
        return connection.default_channel.queue_declare("celery", passive=True).message_count


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_whose_worker_is_killed_runs_again(
    rabbitmq_url: str, new_stage: NewStage, tmp_path: Path, kind: str
) -> None:
    """In the middle of it, with the whole machine; what it had fetched runs as well."""
    stage = new_stage(rabbitmq_url, task_acks_late=True, **KINDS[kind])
    worker = stage.worker(concurrency=1, pool="prefork", name="first")
    started, release, notes = (tmp_path / name for name in ("started", "release", "notes"))
    held = stage.send("hold", str(started), str(release))
    rest = [stage.send("note", str(notes), f"{number}") for number in range(20)]
    wait_until(started.exists, 30, "the task to start")
    worker.kill_all()
    started.unlink()
    release.touch()
    stage.worker(concurrency=1, pool="prefork", name="second")
    assert held.get(timeout=30) == "released"
    assert started.exists()
    assert [result.get(timeout=30) for result in rest] == [f"{number}" for number in range(20)]
    assert Counter(notes.read_text().split()) == Counter(f"{number}" for number in range(20))


@pytest.mark.parametrize(
    "settings",
    [
        KINDS["classic"],
        # Where Celery knows of quorum queues such tasks wait in the broker; else in the worker.
        QUORUM,
        QUORUM | {"worker_detect_quorum_queues": False},
    ],
    ids=["classic", "quorum", "quorum_unknown"],
)
def test_tasks_that_wait_for_their_time_neither_starve_nor_flood(
    rabbitmq_url: str, new_stage: NewStage, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Celery raises its prefetch count by one for each of them, and lowers it again."""
    stage = new_stage(rabbitmq_url, **settings)  # fetches four for each process
    stage.worker(concurrency=1, pool="prefork")
    waiting = [stage.send("delivery", countdown=12) for _ in range(20)]
    started, release = tmp_path / "started", tmp_path / "release"
    held = stage.send("hold", str(started), str(release))
    wait_until(started.exists, 11, "a task behind more waiting ones than are fetched")
    plain = [stage.send("delivery") for _ in range(300)]
    # The window is a power of two, and those of the limits before may still be full.
    assert waiting_in(stage) > 300 - 64
    release.touch()
    assert held.get(timeout=30) == "released"
    ran = [result.get(timeout=60)["at"] for result in plain]
    late = [result.get(timeout=60)["at"] for result in waiting]
    assert min(ran) < min(late), "the waiting ones held up the others"
    # And the count is what it was at first: the waiting ones have left no room behind.
    started.unlink()
    release.unlink()
    held = stage.send("hold", str(started), str(release))
    wait_until(started.exists, 30, "the task to start")
    rest = [stage.send("add", number, number) for number in range(300)]
    assert waiting_in(stage) > 300 - 64
    release.touch()
    assert [result.get(timeout=60) for result in rest] == [2 * number for number in range(300)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_node_that_ends_and_comes_back(
    node: RabbitMQServer, new_stage: NewStage, kind: str, pool: str
) -> None:
    """In order, and by a kill."""
    vhost = node.new_vhost()
    stage = new_stage(node.url(vhost), **KINDS[kind])
    worker = stage.worker(pool=pool, concurrency=1)
    assert stage.send("add", 1, 1).get(timeout=30) == 2
    for end in (node.stop, node.kill):
        end()
        node.start()
        assert stage.send("add", 2, 2, retry=True).get(timeout=30) == 4
    worker.check()
    node.delete_vhost(vhost)
