"""Eight threads share one connection: nothing is lost, doubled or mixed up."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

from kombu_rs import Connection, Consumer, Producer, Queue

THREADS = 8


def run_all(*functions: Callable[[], None]) -> None:
    """Run each on a thread of its own; raise the first error."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(functions))

    def run(function: Callable[[], None]) -> None:
        try:
            start.wait(20)
            function()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(function,), daemon=True) for function in functions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), f"a thread hangs; errors so far: {errors}"
    if errors:
        raise errors[0]


def body_of(name: int, number: int) -> dict[str, Any]:
    """A body that shows when parts of two messages were put together."""
    text = f"{name}/{number} " * (1 + number % 50)
    return {"name": name, "number": number, "text": text, "sum": digest(text)}


def digest(text: str) -> str:
    """A checksum."""
    return hashlib.sha256(text.encode()).hexdigest()


def test_each_gets_its_own_replies(broker: str) -> None:
    """Each has a channel and a queue; their requests share the link."""
    # RabbitMQ counts a message, and gives it out, when it has confirmed it and not before.
    options = {"confirm_publish": True} if broker.startswith("amqp") else {}
    with Connection(broker, transport_options=options) as connection:

        def talk(name: int) -> None:
            channel = connection.channel()
            queue = Queue(f"threads-own-{name}")(channel)
            queue.declare()
            producer = Producer(channel)
            for number in range(40):
                for _ in range(1 + number % 3):
                    producer.publish(body_of(name, number), routing_key=queue.name)
                count = queue.queue_declare(passive=True).message_count
                assert count == 1 + number % 3
                for _ in range(count):
                    message = queue.get()
                    assert message is not None
                    assert message.payload == body_of(name, number)
                    message.ack()
            channel.close()

        run_all(*(lambda name=name: talk(name) for name in range(THREADS)))


def test_half_publish_and_half_consume(broker: str) -> None:
    """All on one connection; the publishers also share one channel."""
    count = 150
    senders = THREADS // 2
    lock = threading.Lock()
    got: list[tuple[int, int]] = []
    done = threading.Event()
    with Connection(broker) as connection:
        channel = connection.channel()
        producer = Producer(channel)

        def publish(name: int) -> None:
            for number in range(count):
                producer.publish(body_of(name, number), routing_key="threads-shared")

        def on_message(body: Any, message: Any) -> None:
            assert body["sum"] == digest(body["text"])
            message.ack()
            with lock:
                got.append((body["name"], body["number"]))
                if len(got) >= senders * count:
                    done.set()

        def drain() -> None:
            while not done.is_set():
                try:
                    connection.drain_events(timeout=0.5)
                except TimeoutError:
                    continue

        consumers = []
        for _ in range(senders):
            own = connection.channel()
            consumer = Consumer(
                own, [Queue("threads-shared")], callbacks=[on_message], prefetch_count=10
            )
            consumer.consume()
            consumers.append(consumer)
        run_all(
            *(lambda name=name: publish(name) for name in range(senders)),
            *(drain for _ in range(THREADS - senders)),
        )
        assert sorted(got) == [(name, number) for name in range(senders) for number in range(count)]
        for consumer in consumers:
            consumer.cancel()
        queue = Queue("threads-shared")(channel)
        assert queue.queue_declare(passive=True).message_count == 0


def test_one_consumer_drained_by_all(broker: str) -> None:
    """Callbacks of one channel run on whichever thread got the event, each once."""
    count = 400
    lock = threading.Lock()
    got: list[int] = []
    done = threading.Event()
    with Connection(broker) as connection:

        def on_message(body: Any, message: Any) -> None:
            message.ack()
            with lock:
                got.append(body)
                if len(got) >= count:
                    done.set()

        def drain() -> None:
            while not done.is_set():
                try:
                    connection.drain_events(timeout=0.5)
                except TimeoutError:
                    continue

        def publish() -> None:
            for number in range(count):
                producer.publish(number, routing_key="threads-one")

        consumer = Consumer(
            connection, [Queue("threads-one")], callbacks=[on_message], prefetch_count=20
        )
        producer = Producer(connection.channel())
        with consumer:
            run_all(publish, *(drain for _ in range(THREADS - 1)))
        assert sorted(got) == list(range(count))
