"""A Hub is woken by the transport's descriptor: at once, never for nothing, always the same one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kombu_rs import Connection, Consumer, Producer, Queue
from kombu_rs.asynchronous.hub import Hub

#: Seconds of watching an idle loop, and how many polls there may be in them: the Hub itself polls
#: once a second, the safety look at the broker comes on top. A busy loop makes thousands.
IDLE = 1.5
IDLE_POLLS = 15


class Poller:
    """Counts the polls of a Hub's poller."""

    def __init__(self, poller: Any) -> None:
        self.poller = poller
        self.count = 0

    def poll(self, timeout: float) -> Any:
        """Poll and count."""
        self.count += 1
        return self.poller.poll(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.poller, name)


class Loop:
    """A Hub that drives a connection with one consumer."""

    def __init__(self, url: str, name: str, prefetch: int = 0) -> None:
        self.hub = Hub()
        self.poller = Poller(self.hub.poller)
        self.hub.poller = self.poller
        self.connection = Connection(url)
        self.got: list[Any] = []
        self.messages: list[Any] = []
        self.keep = False
        self.consumer = Consumer(
            self.connection, [Queue(name)], callbacks=[self._on_message], prefetch_count=prefetch
        )
        self.consumer.consume()
        self.connection.register_with_event_loop(self.hub)

    def _on_message(self, body: Any, message: Any) -> None:
        self.got.append(body)
        if self.keep:
            self.messages.append(message)
        else:
            message.ack()

    def turn(self) -> None:
        """One turn of the loop. A broken link raises its error out of it, as Celery expects."""
        self.hub.run_once()

    def until(self, condition: Callable[[], object], timeout: float = 20) -> None:
        """Turn until the condition holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"got {len(self.got)} messages: {self.got[-5:]}"
            self.turn()

    def idle(self) -> tuple[int, float]:
        """Turn for `IDLE` seconds; the polls and the CPU seconds that it took."""
        over: list[int] = []
        polls, cpu = self.poller.count, time.process_time()
        self.hub.call_later(IDLE, over.append, 1)
        self.until(lambda: over)
        return self.poller.count - polls, time.process_time() - cpu

    def close(self) -> None:
        """Release everything."""
        self.connection.release()
        self.hub.close()


@pytest.fixture
def new_loop() -> Any:
    """Makes a Loop: ``new_loop(url, queue, prefetch=0)``."""
    loops: list[Loop] = []

    def make(*arguments: Any, **options: Any) -> Loop:
        loops.append(Loop(*arguments, **options))
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()


NewLoop = Callable[..., Loop]


def test_news_wake_the_hub_and_idling_does_not(broker: str, new_loop: NewLoop) -> None:
    loop = new_loop(broker, "hub-news")
    with Connection(broker) as other:
        producer = Producer(other)
        for number in range(5):
            producer.publish(number, routing_key="hub-news")
            loop.until(lambda number=number: number in loop.got)
        loop.turn()
        polls, cpu = loop.idle()
        assert polls <= IDLE_POLLS
        assert cpu < IDLE / 3
        producer.publish("after", routing_key="hub-news")
        loop.until(lambda: "after" in loop.got)
    assert loop.got == [0, 1, 2, 3, 4, "after"]


def test_a_message_wakes_a_sleeping_hub(broker: str, new_loop: NewLoop) -> None:
    """Published by another thread while the poll sleeps: it need not end by its timeout."""
    loop = new_loop(broker, "hub-sleep")
    loop.until(lambda: loop.poller.count > 1)
    with Connection(broker) as other:
        producer = Producer(other)
        producer.publish("first", routing_key="hub-sleep")
        loop.until(lambda: loop.got)
        delays = []
        for number in range(5):
            sent: list[float] = []

            def publish(number: int = number, sent: list[float] = sent) -> None:
                asleep = loop.poller.count
                while loop.poller.count == asleep:
                    time.sleep(0.001)
                sent.append(time.monotonic())
                producer.publish(number, routing_key="hub-sleep")

            thread = threading.Thread(target=publish)
            thread.start()
            loop.until(lambda number=number: number in loop.got)
            delays.append(time.monotonic() - sent[0])
            thread.join()
    assert sorted(delays)[2] < 0.5


def test_a_full_prefetch_is_not_polled(broker: str, new_loop: NewLoop) -> None:
    loop = new_loop(broker, "hub-full", prefetch=1)
    loop.keep = True
    with Connection(broker) as other:
        for number in range(3):
            Producer(other).publish(number, routing_key="hub-full")
        loop.until(lambda: loop.got)
        loop.turn()
        polls, cpu = loop.idle()
        assert loop.got == [0]
        assert polls <= IDLE_POLLS
        assert cpu < IDLE / 3
        for number in (1, 2):
            loop.messages.pop().ack()
            loop.until(lambda number=number: number in loop.got)
    assert loop.got == [0, 1, 2]
    loop.messages.pop().ack()


def test_a_burst_is_delivered_to_its_end(broker: str, new_loop: NewLoop) -> None:
    """More than one turn takes: what is left over must ring again, nobody else will."""
    with Connection(broker) as other:
        queue = Queue("hub-burst")(other.default_channel)
        queue.declare()
        producer = Producer(other)
        for number in range(500):
            producer.publish(number, routing_key="hub-burst")
    loop = new_loop(broker, "hub-burst")
    loop.until(lambda: len(loop.got) >= 500)
    assert loop.got == list(range(500))


def test_the_doorbell_loses_nothing(broker: str, new_loop: NewLoop) -> None:
    """Threads publish while the loop drains: with a wrong order of ringing and silencing the last
    messages would wait for ever."""
    loop = new_loop(broker, "hub-bell", prefetch=10)
    count = 200

    def publish(name: int) -> None:
        with Connection(broker) as connection:
            producer = Producer(connection)
            for number in range(count):
                producer.publish([name, number], routing_key="hub-bell")

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    loop.until(lambda: len(loop.got) >= 3 * count, timeout=60)
    for thread in threads:
        thread.join()
    for name in range(3):
        assert [number for who, number in loop.got if who == name] == list(range(count))


def test_the_descriptor_stays_over_a_reconnect(new_redis, new_loop: NewLoop) -> None:
    server = new_redis()
    loop = new_loop(server.url(), "hub-restart")
    descriptor = loop.connection.transport.fileno()

    def publish(text: str) -> None:
        with Connection(server.url()) as other:
            Producer(other).publish(text, routing_key="hub-restart")

    def until_got(text: str) -> None:
        errors = 0
        deadline = time.monotonic() + 30
        while text not in loop.got:
            assert time.monotonic() < deadline
            try:
                loop.turn()
            except loop.connection.connection_errors:
                errors += 1
        assert errors < 100, "the loop spins on a broken link"

    publish("before")
    until_got("before")
    for text in ("once", "twice"):
        server.restart()
        publish(text)
        until_got(text)
        assert loop.connection.transport.fileno() == descriptor
        assert set(loop.hub.readers) == {descriptor}
    loop.turn()
    polls, cpu = loop.idle()
    assert polls <= IDLE_POLLS
    assert cpu < IDLE / 3


def test_an_outage_is_no_busy_loop(new_redis, new_loop: NewLoop) -> None:
    server = new_redis()
    loop = new_loop(server.url(), "hub-outage")
    descriptor = loop.connection.transport.fileno()
    loop.until(lambda: loop.poller.count > 1)
    server.stop()
    end = time.monotonic() + IDLE
    polls, cpu, errors = loop.poller.count, time.process_time(), 0
    while time.monotonic() < end:
        try:
            loop.turn()
        except loop.connection.connection_errors:
            errors += 1
    assert errors > 0
    assert loop.poller.count - polls < 100
    assert time.process_time() - cpu < IDLE / 3
    server.start()
    with Connection(server.url()) as other:
        Producer(other).publish("back", routing_key="hub-outage")
    deadline = time.monotonic() + 30
    while "back" not in loop.got:
        assert time.monotonic() < deadline
        with contextlib.suppress(loop.connection.connection_errors):
            loop.turn()
    assert loop.connection.transport.fileno() == descriptor
