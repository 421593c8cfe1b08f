"""What nobody needs any more is gone: cycles through native objects are collected."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from typing import Any

import pytest

from kombu_rs import Connection, Consumer, Producer, Queue
from kombu_rs.asynchronous.hub import Hub


class Worker:
    """Holds a consumer that holds its bound method."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.channel = connection.channel()
        self.consumer = Consumer(self.channel, [Queue(name)], callbacks=[self.on_message])
        self.consumer.consume()
        self.last: Any = None

    def on_message(self, body: Any, message: Any) -> None:
        """Keep the message, which holds the channel, which holds this method."""
        self.last = message
        message.ack()

    def take_one(self, connection: Connection, name: str) -> None:
        """Publish a message and receive it."""
        Producer(self.channel).publish({"n": 1}, routing_key=name)
        while self.last is None:
            connection.drain_events(timeout=20)

    def references(self) -> list[weakref.ref[Any]]:
        """To everything on the cycle."""
        return [weakref.ref(one) for one in (self, self.consumer, self.channel, self.last)]


def living(references: list[weakref.ref[Any]]) -> list[Any]:
    """What is still there after a collection."""
    gc.collect()
    return [reference() for reference in references if reference() is not None]


def test_a_consumer_goes_with_its_channel(broker: str) -> None:
    with Connection(broker) as connection:
        worker = Worker(connection, "gc-channel")
        worker.take_one(connection, "gc-channel")
        references = worker.references()
        worker.channel.close()
        del worker
        assert living(references) == []


def test_a_consumer_goes_when_it_is_cancelled(broker: str) -> None:
    with Connection(broker) as connection:
        worker = Worker(connection, "gc-cancel")
        worker.take_one(connection, "gc-cancel")
        worker.consumer.cancel()
        references = [weakref.ref(worker), weakref.ref(worker.consumer), weakref.ref(worker.last)]
        del worker
        assert living(references) == []


def test_all_goes_with_a_released_connection(broker: str) -> None:
    connection = Connection(broker)
    worker = Worker(connection, "gc-released")
    worker.take_one(connection, "gc-released")
    references = [*worker.references(), weakref.ref(connection), weakref.ref(connection.transport)]
    connection.release()
    del worker, connection
    assert living(references) == []


def test_all_goes_with_a_forgotten_connection(broker: str) -> None:
    connection = Connection(broker)
    worker = Worker(connection, "gc-forgotten")
    worker.take_one(connection, "gc-forgotten")
    references = [*worker.references(), weakref.ref(connection), weakref.ref(connection.transport)]
    del worker, connection
    assert living(references) == []


def test_all_goes_with_its_hub(broker: str) -> None:
    hub = Hub()
    connection = Connection(broker)
    worker = Worker(connection, "gc-hub")
    connection.register_with_event_loop(hub)
    Producer(worker.channel).publish("x", routing_key="gc-hub")
    while worker.last is None:
        next(hub.loop)
    references = [*worker.references(), weakref.ref(connection), weakref.ref(connection.transport)]
    connection.release()
    del worker, connection
    assert living(references) == []
    hub.close()


def test_an_error_of_a_callback_keeps_nothing(broker: str) -> None:
    with Connection(broker) as connection:
        worker = Worker(connection, "gc-error")

        def fail(body: Any, message: Any) -> None:
            message.ack()
            raise ZeroDivisionError(body)

        worker.consumer.callbacks[:] = [fail]
        Producer(worker.channel).publish("x", routing_key="gc-error")
        with pytest.raises(ZeroDivisionError):
            connection.drain_events(timeout=20)
        references = [weakref.ref(worker), weakref.ref(worker.consumer), weakref.ref(fail)]
        worker.channel.close()
        del worker, fail
        assert living(references) == []


# An AMQP channel has no `qos`.
@pytest.mark.parametrize("broker", ["memory", "sqlite", "redis"], indirect=True)
@pytest.mark.parametrize("what", ["qos", "create_publish_batch"])
def test_what_a_channel_has_of_itself_is_collected(broker: str, what: str) -> None:
    connection = Connection(broker)
    channel: Any = connection.channel()
    made = getattr(channel, what)
    channel.mine = made(10) if callable(made) else made
    reference = weakref.ref(channel)
    connection.release()
    del connection, channel, made
    assert not living([reference])


def test_messages_go_without_the_collector(broker: str) -> None:
    """A busy consumer makes many: they must not wait for a collection."""
    with Connection(broker) as connection:
        channel = connection.channel()
        queue = Queue("gc-message")(channel)
        queue.declare()
        Producer(channel).publish({"n": 1}, routing_key="gc-message")
        gc.collect()
        gc.disable()
        try:
            message = queue.get(no_ack=True)
            assert message is not None
            assert message.payload == {"n": 1}
            reference = weakref.ref(message)
            del message
            assert reference() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("how", ["collect", "release"])
def test_connections_go_without_the_collector(broker: str, how: str) -> None:
    """What was given up must not renew its claims until a collection."""
    gc.collect()
    gc.disable()
    try:
        connection = Connection(broker)
        channel = connection.channel()
        queue = Queue("gc-given-up")(channel)
        queue.declare()
        channel.basic_consume(queue=queue.name, no_ack=False, callback=print, consumer_tag="t")
        references = [weakref.ref(channel), weakref.ref(connection.transport)]
        getattr(connection, how)()
        del connection, channel, queue
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


COLLECTED_WHILE_MADE = """
import gc
from kombu_rs import Connection, Message, Producer, Queue
from kombu_rs.utils.scheduling import FairCycle

class Own(Message):
    pass

with Connection("memory://") as connection:
    channel = connection.channel()
    queue = Queue("young")(channel)
    queue.declare()
    makers = [
        lambda: FairCycle(print, makers),
        lambda: Own("x"),
        lambda: Message("x"),
        lambda: connection.channel(),
        lambda: connection.Consumer(queue, auto_declare=False),
        lambda: connection.Producer().publish("x", routing_key="young"),
        lambda: queue.get(no_ack=True),
    ]
    for make in makers:
        # All are kept: CPython takes no memory anew while it has freed dicts at hand.
        kept = []
        for threshold in (1, 2, 3, 5):
            gc.set_threshold(threshold)
            kept += [make() for _ in range(200)]
            gc.set_threshold(0)
print("made")
"""


def test_collections_while_objects_are_made() -> None:
    """CPython may collect between the allocation of an object and the writing of its fields."""
    made = subprocess.run(
        [sys.executable, "-c", COLLECTED_WHILE_MADE], capture_output=True, text=True, timeout=120
    )
    assert (made.returncode, made.stdout) == (0, "made\n"), made.stderr


def test_use_after_the_end_is_an_error(broker: str) -> None:
    with Connection(broker) as connection:
        channel = connection.channel()
        queue = Queue("gc-late")(channel)
        queue.declare()
        Producer(channel).publish("x", routing_key="gc-late")
        message = queue.get()
        assert message is not None
        channel.close()
        with pytest.raises(connection.connection_errors + connection.channel_errors):
            message.ack()


def test_many_connections_leave_nothing(broker: str) -> None:
    def figures() -> tuple[int, int, int]:
        gc.collect()
        return len(gc.get_objects()), sys.getallocatedblocks(), len(os.listdir("/proc/self/fd"))

    def rounds(count: int) -> tuple[int, int, int]:
        for _ in range(count):
            with Connection(broker) as connection:
                Worker(connection, "gc-many").take_one(connection, "gc-many")
        return figures()

    objects, blocks, files = rounds(10)
    more_objects, more_blocks, more_files = rounds(50)
    assert more_files <= files
    assert more_objects - objects < 50
    assert more_blocks - blocks < 500
