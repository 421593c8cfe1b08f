"""Kinds of queues and what they do with messages, on a real RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from kombu_rs import Connection, Queue, exceptions
from servers.process import wait_until

STREAM = {"x-queue-type": "stream"}
QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture
def connection(rabbitmq_url: str) -> Iterator[Connection]:
    """A connection to an empty virtual host."""
    options = {"confirm_publish": True}
    with Connection(rabbitmq_url, connect_timeout=5, transport_options=options) as connection:
        yield connection


def publish(connection: Connection, queue: Queue, *bodies: Any, **options: Any) -> None:
    """Declares a queue and publishes to it."""
    producer = connection.Producer()
    queue(producer.channel).declare()
    for body in bodies:
        producer.publish(body, routing_key=queue.name, **options)


def get(connection: Connection, queue: Queue) -> Any:
    """The next message of a queue, when there is one."""
    bound = queue(connection.default_channel)
    return wait_until(bound.get, 20, f"a message in {queue.name}")


def drain(connection: Connection, got: list[Any], count: int) -> None:
    """Handles events until there are so many messages."""
    while len(got) < count:
        connection.drain_events(timeout=20)


def quiet(connection: Connection) -> bool:
    """Whether no event comes for a moment."""
    try:
        connection.drain_events(timeout=0.1)
    except TimeoutError:
        return True
    return False


class TestStreams:
    """What a consumer is given depends on where it begins."""

    @pytest.fixture
    def stream(self, connection: Connection) -> Queue:
        stream = Queue("log", routing_key="log", queue_arguments=STREAM)
        publish(connection, stream, *range(10))
        return stream

    def consume(
        self, connection: Connection, stream: Queue, offset: Any, count: int, limit: int = 10
    ) -> list[Any]:
        got: list[Any] = []
        channel = connection.channel()
        channel.basic_qos(0, limit, False)
        channel.basic_consume(
            stream.name, callback=got.append, arguments={"x-stream-offset": offset}
        )
        if offset == "next":
            publish(connection, stream, *range(10, 13))
        while len(got) < count:
            connection.drain_events(timeout=20)
            got[-1].ack()
        channel.close()
        return got

    @pytest.mark.parametrize(
        ("offset", "first"),
        [
            ("first", 0),
            (3, 3),
            ("next", 10),
            (datetime(2020, 1, 1, tzinfo=timezone.utc), 0),
            ("1h", 0),
        ],
        ids=["first", "number", "next", "timestamp", "interval"],
    )
    def test_offsets(self, connection: Connection, stream: Queue, offset: Any, first: int) -> None:
        got = self.consume(connection, stream, offset, 3)
        assert [message.headers["x-stream-offset"] for message in got] == [
            first,
            first + 1,
            first + 2,
        ]
        assert [message.decode() for message in got] == [first, first + 1, first + 2]

    def test_the_last_chunk(self, connection: Connection, stream: Queue) -> None:
        """It begins with a message that was published together with the last one."""
        (message,) = self.consume(connection, stream, "last", 1)
        assert 0 < message.headers["x-stream-offset"] <= 9

    def test_times_to_come(self, connection: Connection, stream: Queue) -> None:
        """From the end on, then."""
        later = datetime.now(timezone.utc) + timedelta(days=1)
        got: list[Any] = []
        channel = connection.channel()
        channel.basic_qos(0, 10, False)
        arguments = {"x-stream-offset": later}
        channel.basic_consume("log", callback=got.append, arguments=arguments)
        publish(connection, stream, "new")
        drain(connection, got, 1)
        assert [message.decode() for message in got] == ["new"]

    def test_they_need_acknowledgements(self, connection: Connection, stream: Queue) -> None:
        channel = connection.channel()
        with pytest.raises(ValueError, match="no_ack must be false for the consumer of 'log'"):
            channel.basic_consume("log", callback=print, no_ack=True)
        assert channel.is_open


def test_a_quorum_queue_counts_deliveries_and_gives_up(connection: Connection) -> None:
    dead = Queue("dead", routing_key="dead", durable=True)
    work = Queue(
        "work",
        routing_key="work",
        queue_arguments=QUORUM
        | {
            "x-delivery-limit": 2,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "dead",
        },
    )
    dead(connection.default_channel).declare()
    publish(connection, work, "poison")
    counts = []
    for _ in range(3):
        message = get(connection, work)
        counts.append(message.headers.get("x-delivery-count"))
        message.requeue()
    assert counts[0] in (None, 0)  # as the version has it
    assert counts[1:] == [1, 2]
    message = get(connection, dead)
    (death,) = message.headers["x-death"]
    assert (death["queue"], death["reason"], death["count"]) == ("work", "delivery_limit", 1)
    assert death["routing-keys"] == ["work"]
    assert isinstance(death["time"], datetime)
    assert message.headers["x-first-death-reason"] == "delivery_limit"


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_is_too_old_is_dead(connection: Connection, kind: str) -> None:
    dead = Queue("dead", routing_key="dead", durable=True)
    work = Queue(
        "work",
        routing_key="work",
        queue_arguments={
            "x-message-ttl": 50,
            "x-queue-type": kind,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "dead",
        },
    )
    dead(connection.default_channel).declare()
    publish(connection, work, "old")
    message = get(connection, dead)
    assert message.payload == "old"
    assert message.headers["x-death"][0]["reason"] == "expired"


def test_a_queue_that_nobody_uses_goes(connection: Connection) -> None:
    channel = connection.channel()
    Queue("brief", routing_key="brief", expires=0.1)(channel).declare()

    def gone() -> bool:
        message = channel.prepare_message("x")  # unlike a question, it is no use of the queue
        with suppress(exceptions.ChannelError):
            channel.basic_publish(message, routing_key="brief", mandatory=True)
            return False
        return True

    wait_until(gone, 20, "the queue to go")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_full_queue_refuses_and_the_message_is_named(connection: Connection, kind: str) -> None:
    full = Queue(
        "full",
        routing_key="full",
        max_length=1,
        queue_arguments={"x-overflow": "reject-publish", "x-queue-type": kind},
    )
    publish(connection, full, "first")
    # A quorum queue takes one or two more.
    with pytest.raises(exceptions.MessageNacked, match=r"queue 'full', message_id \"m7\""):
        publish(connection, full, *range(20), message_id="m7")


def test_a_full_queue_drops_the_oldest(connection: Connection) -> None:
    full = Queue("full", routing_key="full", max_length=2)
    publish(connection, full, 1, 2, 3)
    assert [get(connection, full).payload for _ in range(2)] == [2, 3]


def test_priorities_of_messages(connection: Connection) -> None:
    queue = Queue("urgent", routing_key="urgent", max_priority=10)
    for priority in (1, 9, 5):
        publish(connection, queue, priority, priority=priority)
    assert [get(connection, queue).payload for _ in range(3)] == [9, 5, 1]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_priorities_of_consumers(connection: Connection, kind: str) -> None:
    """Others get what is beyond the limit of the first, also when that has grown."""
    queue = Queue("work", routing_key="work", queue_arguments={"x-queue-type": kind})
    queue(connection.default_channel).declare()
    low, high = connection.channel(), connection.channel()
    got: list[tuple[str, Any]] = []
    for channel, name, priority in ((low, "low", 0), (high, "high", 5)):
        channel.basic_qos(0, 2, False)
        channel.basic_consume(
            "work",
            callback=lambda message, name=name: got.append((name, message)),
            arguments={"x-priority": priority},
        )
    publish(connection, queue, 0, 1)
    drain(connection, got, 2)
    publish(connection, queue, 2)
    drain(connection, got, 3)
    high.basic_qos(0, 4, False)
    publish(connection, queue, 3, 4)
    drain(connection, got, 5)
    assert [(name, message.decode()) for name, message in got] == [
        ("high", 0),
        ("high", 1),
        ("low", 2),
        ("high", 3),
        ("high", 4),
    ]


def test_exclusive_queues(connection: Connection, rabbitmq_url: str) -> None:
    """They are their connection's alone, and go with it."""
    with Connection(rabbitmq_url) as other:
        mine = other.channel().queue_declare("mine", exclusive=True).queue
        with pytest.raises(exceptions.ResourceLocked, match="exclusive access to locked queue"):
            connection.channel().queue_declare(mine, passive=True)
    channel = connection.channel()

    def gone() -> bool:
        with suppress(exceptions.NotFound, exceptions.ResourceLocked):
            channel.queue_declare(mine, passive=True)
            return False
        return True

    wait_until(gone, 20, "the queue to go")


def test_recover_gives_everything_back(connection: Connection) -> None:
    queue = Queue("work", routing_key="work")
    publish(connection, queue, 1, 2)
    first, second = get(connection, queue), get(connection, queue)
    assert not first.delivery_info["redelivered"]
    first.channel.basic_recover(requeue=True)
    again = [get(connection, queue) for _ in range(2)]
    assert [message.payload for message in again] == [1, 2]
    assert all(message.delivery_info["redelivered"] for message in again)
    second.ack()  # dropped: it was given back
    assert quiet(connection)
    for message in again:
        message.ack()


def test_a_single_active_consumer(connection: Connection) -> None:
    """Its limit may grow, and the queue stays with it."""
    queue = Queue("one", routing_key="one", queue_arguments={"x-single-active-consumer": True})
    active, waiting = connection.channel(), connection.channel()
    queue(active).declare()
    got: list[tuple[str, Any]] = []
    for channel, name in ((active, "active"), (waiting, "waiting")):
        channel.basic_qos(0, 1, True)
        channel.basic_consume(
            "one", callback=lambda message, name=name: got.append((name, message.decode()))
        )
    publish(connection, queue, *range(6))
    drain(connection, got, 1)
    for limit in (2, 3, 4):
        active.basic_qos(0, limit, True)
        drain(connection, got, limit)
        assert quiet(connection)
    assert got == [("active", number) for number in range(4)]
    active.close()
    drain(connection, got, 5)
    assert got[4] == ("waiting", 0)
