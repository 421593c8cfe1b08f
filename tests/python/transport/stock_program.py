"""Programs on stock Kombu whose URL names our transport: ``stock_program.py CASE URL``.

They run in a process of their own, in which `kombu` is the installed one.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import amqp
import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue, eventloop
from kombu.exceptions import OperationalError
from kombu.mixins import ConsumerMixin
from kombu.pidbox import Mailbox
from kombu.pools import producers


def entities(url: str) -> None:
    """Exchanges of every type, queues, bindings, a passive declaration, purge and delete."""
    exchange = Exchange("media", type="topic")
    queue = Queue("video", exchange, routing_key="video.#", max_priority=9)
    with Connection(url) as connection:
        channel = connection.channel()
        bound = queue(channel)
        bound.declare()
        Producer(channel, exchange).publish({"n": 1}, routing_key="video.new", priority=3)
        Producer(channel, exchange).publish({"n": 2}, routing_key="audio.new")
        message = bound.get()
        assert message.payload == {"n": 1}
        assert message.delivery_info["exchange"] == "media"
        assert message.delivery_info["routing_key"] == "video.new"
        message.requeue()
        again = bound.get()
        assert again.payload == {"n": 1}
        again.ack()
        assert bound.get() is None
        Producer(channel).publish("x", routing_key="video", expiration=60)
        assert bound.purge() == 1
        assert bound.queue_declare(passive=True).message_count == 0
        bound.delete()
        with pytest.raises(connection.channel_errors, match="nowhere"):
            Queue("nowhere", channel=channel).queue_declare(passive=True)


def consume(url: str) -> None:
    """A consumer with callbacks, prefetch, serializers, compression, and time-outs."""
    got: list[Any] = []
    queue = Queue("jobs", Exchange("jobs"), routing_key="jobs")

    def on_message(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with Connection(url) as connection:
        with producers[connection].acquire(block=True) as producer:
            for n in range(10):
                producer.publish(
                    {"n": n},
                    exchange="jobs",
                    routing_key="jobs",
                    declare=[queue],
                    serializer="json" if n % 2 else "yaml",
                    compression="zlib",
                    retry=True,
                )
        with Consumer(
            connection, [queue], callbacks=[on_message], accept=["json", "yaml"], prefetch_count=3
        ):
            for _ in eventloop(connection, limit=10, timeout=5):
                pass
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.05)
    assert [body["n"] for body in got] == list(range(10))


def simple(url: str) -> None:
    """SimpleQueue, which is how scripts use Kombu."""
    with Connection(url) as connection, connection.SimpleQueue("simple") as queue:
        queue.put({"a": 1}, serializer="json", compression="bzip2")
        end = time.monotonic() + 10
        while queue.qsize() != 1:  # RabbitMQ does not wait for a queue to have what was published
            assert time.monotonic() < end
        message = queue.get(timeout=5)
        assert message.payload == {"a": 1}
        message.reject()
        with pytest.raises(queue.Empty):
            queue.get(block=False)


def mixin(url: str) -> None:
    """A ConsumerMixin in a thread of its own."""
    done = threading.Event()

    class Worker(ConsumerMixin):
        def __init__(self, connection: Connection) -> None:
            self.connection = connection

        def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
            return [consumer([Queue("mixed")], callbacks=[self.on_task])]

        def on_task(self, body: Any, message: Any) -> None:
            message.ack()
            self.should_stop = True
            done.set()

    with Connection(url) as connection:
        connection.Producer().publish("work", routing_key="mixed", declare=[Queue("mixed")])
        worker = Worker(connection.clone())
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        assert done.wait(10)
        thread.join(10)
        assert not thread.is_alive()


def pidbox(url: str) -> None:
    """Remote control, which takes fanout."""
    mailbox = Mailbox("control", type="fanout", accept=["json"])
    with Connection(url) as server, Connection(url) as client:
        node = mailbox(server).Node("node@here", channel=server.channel(), state=None)
        node.handlers["ping"] = lambda state, **kwargs: "pong"
        stop = threading.Event()

        def serve() -> None:
            with node.listen(callback=node.handle_message):
                listening.set()
                while not stop.is_set():
                    try:
                        server.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

        listening = threading.Event()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert listening.wait(10)
        answers = mailbox(client).multi_call("ping", timeout=10, limit=1)
        stop.set()
        thread.join(10)
    assert answers == [{"node@here": "pong"}], answers


def errors(url: str) -> None:
    """What goes wrong with the broker is one of stock Kombu's connection errors."""
    with Connection(url, connect_timeout=2) as connection:
        expected = connection.connection_errors + connection.recoverable_connection_errors
        with pytest.raises(expected) as raised:
            connection.connect()
        assert "secret" not in str(raised.value)
        with pytest.raises(OperationalError) as raised:
            connection.ensure_connection(max_retries=1, interval_start=0)
        assert "secret" not in str(raised.value)


def amqp_errors(url: str) -> None:
    """A channel's errors are told from a connection's; all are py-amqp's, too."""
    queue = Queue("work", routing_key="work")
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        with pytest.raises(connection.channel_errors, match="NOT_FOUND") as raised:
            channel.queue_declare("nowhere", passive=True)
        assert isinstance(raised.value, amqp.NotFound)
        assert not isinstance(raised.value, connection.connection_errors)
        with pytest.raises(connection.channel_errors, match="NO_ROUTE"):
            Producer(channel).publish("x", routing_key="nobody", mandatory=True)
        Producer(channel).publish("x", routing_key="work", declare=[queue])
        link = connection.connection
        link.close()
        with pytest.raises(connection.recoverable_connection_errors):
            link.channel()
        # Stock Kombu's own way to go on after a loss.
        errors: list[Any] = []
        publish = connection.ensure(
            producer := Producer(connection),
            producer.publish,
            errback=lambda *facts: errors.append(facts),
            interval_start=0,
        )
        publish("y", routing_key="work")
        assert queue(connection.channel()).get(no_ack=True).payload == "x"
    wrong = (
        url.replace("guest@", "wr0ng@") if "@" in url else url.replace("//", "//guest:wr0ng@", 1)
    )
    with Connection(wrong) as connection:
        expected = connection.connection_errors + connection.channel_errors
        with pytest.raises(expected, match="ACCESS_REFUSED") as raised:
            connection.connect()
        assert isinstance(raised.value, amqp.AccessRefused)
        assert "wr0ng" not in f"{raised.value} {connection.as_uri()} {connection!r}"


def amqp_options(url: str) -> None:
    """Query, attributes and transport options reach the broker; Celery finds what it looks for."""
    asked: list[str] = []

    def password() -> str:
        asked.append("password")
        return "guest"

    options = {"channel_max": 9}
    with Connection(
        url, userid="guest", password=password, transport_options=options
    ) as connection:
        link = connection.connect()
        assert (link.heartbeat, link.frame_max, link.channel_max) == (7, 8192, 9)
        assert connection.transport.driver_type == "amqp"
        assert connection.get_heartbeat_interval() == 7
        assert connection.supports_heartbeats
        connection.heartbeat_check()
        assert "amqp://localhost:" in connection.as_uri()
        Producer(connection).publish("x", routing_key="q", declare=[Queue("q", routing_key="q")])
        assert connection.transport.statistics().confirmed == 1
        connection.collect()
        connection.connect()
    assert asked == ["password", "password"]


def cut() -> None:
    """Breaks all links of this process."""
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            link = socket.socket(fileno=os.dup(int(descriptor)))
        except OSError:
            continue  # no socket
        with link:
            if link.family == socket.AF_INET:
                link.shutdown(socket.SHUT_RDWR)


def alternates(urls: str) -> None:
    """Only the second of three is there: it is found at first, and again after each loss."""
    port = urlsplit(urls.split(";")[1].removeprefix("kombu-rs+")).port
    at_once = {"interval_start": 0, "interval_step": 0, "max_retries": 20}
    queue = Queue("alternates", routing_key="alternates")
    got: list[Any] = []

    class Worker(ConsumerMixin):
        def __init__(self, connection: Any) -> None:
            self.connection = connection

        def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
            return [Consumer([queue], callbacks=[self.on_message], prefetch_count=1)]

        def on_message(self, body: Any, message: Any) -> None:
            got.append(body)
            message.ack()
            if body == "first":
                cut()
            self.should_stop = body == "second"

        def create_connection(self) -> Any:
            return self.connection.clone()

    options = {"interval_start": 0, "interval_step": 0, "interval_max": 0}
    with Connection(urls, transport_options=options) as connection:
        producer = connection.Producer()
        for body in ("first", "second"):
            producer.publish(
                body, routing_key="alternates", declare=[queue], retry=True, retry_policy=at_once
            )
            assert f":{port}" in connection.as_uri(), connection.as_uri()
            cut()
        Worker(connection.clone()).run()
    assert [*dict.fromkeys(got)] == ["first", "second"]


CASES = {
    case.__name__: case
    for case in (
        *(entities, consume, simple, mixin, pidbox, alternates),
        *(errors, amqp_errors, amqp_options),
    )
}


def main(name: str, url: str) -> None:
    """Runs one case and says so."""
    import kombu

    assert kombu.__name__ == "kombu"
    CASES[name](url)
    assert "kombu_rs._native" in sys.modules
    assert not any(module.startswith("kombu_rs.messaging") for module in sys.modules)
    print(f"{name} done")


if __name__ == "__main__":
    main(*sys.argv[1:])
