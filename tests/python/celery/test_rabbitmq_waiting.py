"""Celery on RabbitMQ: delays by queues of the broker, and the patience of the broker."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from servers.process import wait_until
from servers.rabbitmq import RabbitMQServer

from .conftest import NewStage

#: Delays are for topic exchanges.
DELAYED = {
    "task_default_queue_type": "quorum",
    "task_default_exchange": "tasks",
    "task_default_exchange_type": "topic",
    "worker_prefetch_multiplier": 1,
    "worker_detect_quorum_queues": True,
}


def test_delayed_delivery_on_quorum_queues(
    rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str, new_stage: NewStage
) -> None:
    """Tasks wait for their time with the broker, more than a worker may hold."""
    stage = new_stage(rabbitmq_server.url(rabbitmq_vhost), **DELAYED)
    stage.worker(pool="prefork")
    assert stage.send("add", 1, 1).get(timeout=30) == 2
    sent = time.time()
    late = [stage.send("delivery", countdown=2) for _ in range(20)]

    delayed = rabbitmq_server.api("GET", f"queues/{rabbitmq_vhost}/celery_delayed_1")
    assert delayed["type"] == "quorum"
    assert stage.send("add", 2, 2).get(timeout=30) == 4
    for result in late:
        told = result.get(timeout=30)
        assert told["at"] >= sent + 2
        assert told["info"]["exchange"].startswith("celery_delayed_"), "its way"


@pytest.fixture
def impatient() -> Iterator[RabbitMQServer]:
    """A node that gives consumers two seconds for each message, and looks every 200 ms."""
    with RabbitMQServer(config={"consumer_timeout": "2000"}) as node:
        node.set_internal(channel_tick_interval=200)
        yield node


def test_a_worker_that_keeps_the_broker_waiting(
    impatient: RabbitMQServer, new_stage: NewStage
) -> None:
    """The node closes the channel of a task that waits for its time; the worker goes on."""
    options = {"consumer_timeout": 2}
    stage = new_stage(impatient.url(), broker_transport_options=options)
    worker = stage.worker(pool="solo")
    assert stage.send("add", 1, 1).get(timeout=30) == 2
    sent = time.time()
    late = stage.send("delivery", countdown=6)
    wait_until(
        lambda: "PRECONDITION_FAILED - delivery acknowledgement" in worker.log_text(),
        30,
        "the node to lose patience",
    )
    assert "of the queue 'celery')" in worker.log_text()
    assert "of the queue 'celery' is not acknowledged for 2 s" in worker.log_text()
    assert stage.send("add", 2, 2).get(timeout=30) == 4
    assert late.get(timeout=30)["at"] >= sent + 6
