"""Threads that share a channel: what goes wrong in one of them stays there."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Any

import pytest

from kombu_rs import Connection, Queue, exceptions


def fill(connection: Connection, name: str, count: int) -> None:
    """Put so many messages into a queue that may be new."""
    channel = connection.channel()
    channel.queue_declare(name, auto_delete=False)
    for _ in range(count):
        channel.basic_publish(channel.prepare_message("x"), routing_key=name)
    channel.close()


def test_a_channel_that_the_broker_closes_takes_down_only_itself(rabbitmq_url: str) -> None:
    """Nothing is sent on it after its end, which would be the end of the connection."""
    with Connection(rabbitmq_url) as connection:
        channel, link = connection.channel(), connection.connect()

        def publish() -> None:
            for _ in range(20):
                with contextlib.suppress(exceptions.ChannelError, exceptions.ConnectionError):
                    channel.basic_publish(channel.prepare_message("x"), routing_key="nowhere")

        for _ in range(100):
            thread = threading.Thread(target=publish)
            thread.start()
            with pytest.raises(exceptions.NotFound):
                channel.queue_declare("missing", passive=True)
            thread.join()
        assert connection.connection is link
        assert link.connected


def test_acknowledgements_while_the_channel_is_closed(rabbitmq_url: str) -> None:
    with Connection(rabbitmq_url) as connection:
        fill(connection, "work", 200)
        link = connection.connect()
        for _ in range(40):
            channel = connection.channel()
            channel.basic_qos(0, 100, False)
            got: list[Any] = []
            channel.basic_consume("work", callback=got.append)
            while len(got) < 3:
                connection.drain_events(timeout=10)

            def settle(messages: list[Any] = got[:], reject: Any = channel.basic_reject) -> None:
                for message in messages:
                    with contextlib.suppress(exceptions.ConnectionError):
                        reject(message.delivery_tag, requeue=True)

            thread = threading.Thread(target=settle)
            thread.start()
            channel.close()
            thread.join()
        connection.default_channel.queue_declare("work", passive=True)
        assert connection.connection is link


def test_acknowledgements_of_one_and_of_many(rabbitmq_url: str) -> None:
    """One of many does not come before one of those that it would be for, too."""
    count = 5000
    with Connection(rabbitmq_url) as connection:
        fill(connection, "work", count)
        channel = connection.channel()
        channel.basic_qos(0, 500, False)
        todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        failed: list[Exception] = []
        seen = [0]

        def received(message: Any) -> None:
            seen[0] += 1
            todo.put(message)

        def settle(many: bool) -> None:
            for number, message in enumerate(iter(todo.get, None)):
                try:
                    channel.basic_ack(message.delivery_tag, multiple=many and number % 5 == 0)
                except Exception as error:
                    failed.append(error)
                    return

        threads = [threading.Thread(target=settle, args=(not number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        channel.basic_consume("work", callback=received)
        while seen[0] < count and not failed:
            connection.drain_events(timeout=10)
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join()
        assert not failed
        channel.close()
        assert Queue("work")(connection.default_channel).get() is None


def test_zero_is_for_all(rabbitmq_url: str) -> None:
    """AMQP 0-9-1, `basic.ack`: with `multiple`."""
    with Connection(rabbitmq_url) as connection:
        fill(connection, "work", 3)
        channel = connection.channel()
        assert all(channel.basic_get("work") for _ in range(3))
        channel.basic_ack(0, multiple=True)
        channel.basic_recover(requeue=True)  # answered when what was left is in the queue again
        assert channel.basic_get("work") is None
