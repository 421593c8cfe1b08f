"""RabbitMQ 4, with what it calls deprecated switched off, as later versions will have it."""

from __future__ import annotations

from typing import Any

import pytest

from kombu_rs import Connection, Consumer, Queue, exceptions

CONFIRMED = {"confirm_publish": True}


def declare(connection: Connection, kind: str, count: int = 0) -> Queue:
    """A queue of that kind with so many messages."""
    channel = connection.default_channel
    queue = Queue("work", routing_key="work", queue_arguments={"x-queue-type": kind})(channel)
    queue.declare()
    producer = connection.Producer()
    for number in range(count):
        producer.publish(number, routing_key="work")
    return queue


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_limit_for_a_whole_channel(rabbitmq_4_url: str, kind: str) -> None:
    """The node would give it to each consumer; it is held here, over both, and may change."""
    with Connection(rabbitmq_4_url, transport_options=CONFIRMED) as connection:
        queue = declare(connection, kind, 20)
        channel = connection.default_channel
        channel.basic_qos(0, 3, True)
        held: list[Any] = []
        consumers = [Consumer(channel, [queue], on_message=held.append) for _ in range(2)]

        def drain(count: int) -> None:
            while len(held) < count:
                connection.drain_events(timeout=20)
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.2)
            assert len(held) == count

        for consumer in consumers:
            consumer.consume()
        drain(3)
        channel.basic_qos(0, 5, True)
        drain(5)
        held[0].ack()
        drain(6)
        channel.basic_qos(0, 0, True)
        drain(20)
        assert sorted(message.payload for message in held) == list(range(20))


@pytest.mark.parametrize("flags", [{}, {"auto_delete": True}], ids=["plain", "auto_delete"])
def test_a_queue_that_is_neither_durable_nor_exclusive(
    rabbitmq_4_url: str, flags: dict[str, bool]
) -> None:
    """The broker ends the connection for it, and what it says is raised; the next one serves."""
    with Connection(rabbitmq_4_url) as connection:
        queue = Queue("fleeting", durable=False, **flags)(connection.default_channel)
        with pytest.raises(exceptions.InternalError, match="transient_nonexcl_queues") as raised:
            queue.declare()
        assert raised.value.reply_code == 541
        assert raised.value.method_name == "Queue.declare"
        queue = Queue("fleeting", durable=False, exclusive=True)(connection.default_channel)
        assert queue.declare() == "fleeting"
