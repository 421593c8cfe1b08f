"""Consumers of the native AMQP transport: limits and ends, on a real RabbitMQ."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from kombu_rs import Connection, exceptions
from servers.process import wait_until

KINDS = [{}, {"x-queue-type": "quorum"}]
COUNT = 50


@pytest.fixture
def connection(rabbitmq_url: str) -> Iterator[Connection]:
    """A connection to an empty virtual host."""
    with Connection(rabbitmq_url, connect_timeout=5) as connection:
        yield connection


@pytest.fixture
def other(rabbitmq_url: str) -> Iterator[Connection]:
    """Another one."""
    with Connection(rabbitmq_url, connect_timeout=5) as connection:
        yield connection


def fill(channel: Any, queue: str, count: int, arguments: dict[str, Any] | None = None) -> None:
    """Declares a queue and puts so many messages into it."""
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
    for number in range(count):
        channel.basic_publish_confirm(channel.prepare_message(str(number)), routing_key=queue)


def drain(connection: Connection) -> None:
    """Handles events until none comes for a moment."""
    with suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0.2)


def ready(channel: Any, queue: str) -> int:
    """How many messages of a queue are with nobody."""
    return channel.queue_declare(queue, passive=True).message_count


@pytest.mark.parametrize("no_ack", [False, True])
def test_what_came_before_a_cancellation_is_handed_out_first(
    connection: Connection, other: Connection, no_ack: bool
) -> None:
    channel, theirs = connection.channel(), other.channel()
    fill(channel, "gone", COUNT)
    got: list[Any] = []
    channel.basic_consume(
        "gone",
        no_ack=no_ack,
        callback=lambda message: got.append(message.body),
        on_cancel=lambda tag: got.append(tag),
        consumer_tag="mine",
    )
    connection.drain_events(timeout=10)
    wait_until(lambda: ready(theirs, "gone") == 0, 10, "all of it to be on its way")
    theirs.queue_delete("gone")
    while "mine" not in got:
        connection.drain_events(timeout=10)
    assert got == [*map(str, range(COUNT)), "mine"]
    assert channel.is_open


@pytest.mark.parametrize("arguments", KINDS, ids=["classic", "quorum"])
@pytest.mark.parametrize(("shared", "count"), [(False, 2), (True, 1)])
def test_a_limit_is_of_each_consumer_or_of_all(
    connection: Connection, arguments: dict[str, Any], shared: bool, count: int
) -> None:
    channel = connection.channel()
    got: list[Any] = []
    channel.basic_qos(0, 1, shared)
    for queue in ("one", "two"):
        fill(channel, queue, 3, arguments)
        channel.basic_consume(queue, callback=got.append)
    drain(connection)
    assert len(got) == count
    # As Celery does it for a task with an ETA, on either kind of queue.
    channel.basic_qos(0, 2, shared)
    drain(connection)
    assert len(got) == 2 * count


def test_the_limit_of_a_consumer_of_kombu_is_its_own(connection: Connection) -> None:
    channel = connection.channel()
    got: list[tuple[str, Any]] = []
    consumers = []
    for queue, count in (("one", 3), ("two", 1)):
        fill(channel, queue, 5)
        consumer = connection.Consumer(
            [connection.SimpleQueue(queue, channel=channel).queue],
            channel=channel,
            prefetch_count=count,
            on_message=lambda message, queue=queue: got.append((queue, message.body)),
        )
        consumer.consume()
        consumers.append(consumer)
    drain(connection)
    assert sorted(queue for queue, _ in got) == ["one"] * 3 + ["two"]


def test_no_message_hides_from_another_worker(connection: Connection, other: Connection) -> None:
    """The limit went up for a moment."""
    channel, theirs = connection.channel(), other.channel()
    fill(channel, "work", 2)
    busy: list[Any] = []
    idle: list[Any] = []
    channel.basic_qos(0, 1, True)
    channel.basic_consume("work", callback=busy.append)
    drain(connection)
    channel.basic_qos(0, 2, True)
    drain(connection)
    assert len(busy) == 2
    # The one that came last is done first: its place is not filled again.
    channel.basic_qos(0, 1, True)
    busy[1].ack()
    fill(theirs, "work", 3)
    drain(connection)
    assert len(busy) == 2
    assert ready(theirs, "work") == 3
    theirs.basic_consume("work", callback=lambda message: (idle.append(message), message.ack()))
    drain(other)
    assert len(idle) == 3
    busy[0].ack()
    fill(theirs, "work", 1)
    drain(connection)
    drain(other)
    assert len(busy) + len(idle) == 6, "it consumes again"


def test_cancelling_gives_back_what_the_limit_does_not_allow(
    connection: Connection, other: Connection
) -> None:
    channel, theirs = connection.channel(), other.channel()
    got: list[Any] = []
    channel.basic_qos(0, 2, True)
    for queue in ("one", "two"):
        fill(channel, queue, 5)
    tags = [channel.basic_consume(queue, callback=got.append) for queue in ("one", "two")]
    for queue in ("one", "two"):
        # Both have come when the first is handed out: one of each is.
        wait_until(
            lambda queue=queue: ready(theirs, queue) == 3, 10, "the broker to fill the window"
        )
    drain(connection)
    assert sorted(message.delivery_info["routing_key"] for message in got) == ["one", "two"]
    channel.basic_cancel(tags[1])
    assert len(got) == 2
    wait_until(lambda: ready(theirs, "two") == 4, 10, "one to be back")
    got[0].ack()
    channel.basic_cancel(tags[0])
    assert [message.body for message in got] == ["0", "0", "1"], "what it allows is handed out"


def test_callbacks_end_with_their_channel(connection: Connection, other: Connection) -> None:
    """The broker closes it, and it is opened again."""

    class Callback:
        def __call__(self, *_: Any) -> None:
            raise AssertionError("it is of a consumer that has ended")

    channel = connection.channel()
    channel.queue_declare("work", auto_delete=False)
    callbacks = [Callback(), Callback()]
    known = [weakref.ref(callback) for callback in callbacks]
    channel.basic_consume(
        "work", callback=callbacks[0], on_cancel=callbacks[1], consumer_tag="mine", no_ack=True
    )
    del callbacks
    with pytest.raises(exceptions.NotFound):
        channel.queue_declare("nowhere", passive=True)
    gc.collect()
    assert [callback() for callback in known] == [None, None]
    assert not channel.no_ack_consumers
    # The tag is free, and what it was is forgotten.
    channel.basic_consume("work", callback=print, consumer_tag="mine")
    other.channel().queue_delete("work")
    with pytest.raises(exceptions.ConsumerCancelled):
        connection.drain_events(timeout=10)
