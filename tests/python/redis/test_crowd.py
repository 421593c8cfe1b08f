"""Many consumers that wait for one queue: what a message costs the server, and who gets it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kombu_rs import Connection, Consumer, Queue
from servers.process import wait_until

WAITERS = 30
#: Seconds between two messages: the waiters that were woken for the last one have looked by then.
PACE = 0.02


@contextmanager
def waiters(url: str, received: Callable[[Any], None]) -> Iterator[None]:
    """Consumers of the queue ``crowded``, each with a connection and a thread of its own."""
    stop = threading.Event()
    ready = threading.Barrier(WAITERS + 1)

    def run() -> None:
        with Connection(url) as connection:
            consumer = Consumer(connection, [Queue("crowded")], on_message=received)
            consumer.qos(prefetch_count=1)
            with consumer:
                ready.wait(60)
                while not stop.is_set():
                    try:
                        connection.drain_events(timeout=0.5)
                    except TimeoutError:
                        continue

    threads = [threading.Thread(target=run, daemon=True) for _ in range(WAITERS)]
    for thread in threads:
        thread.start()
    ready.wait(60)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_a_message_costs_little_however_many_wait(new_redis):
    server = new_redis()

    def commands() -> int:
        info = server.command("INFO", "stats").decode().split("\r\n")
        return int(
            dict(line.split(":", 1) for line in info if ":" in line)["total_commands_processed"]
        )

    taken = []

    def received(message: Any) -> None:
        message.ack()
        taken.append(message)

    with waiters(server.url(), received), Connection(server.url()) as connection:
        producer = connection.Producer()

        def publish(messages: int) -> None:
            due = len(taken) + messages
            for _ in range(messages):
                producer.publish("x", routing_key="crowded")
                time.sleep(PACE)
            wait_until(lambda: len(taken) == due, 60, "the messages to be taken")

        publish(50)  # they find out that they are many
        before = commands()
        publish(200)
        # Each of them looking at each message would be 30 scripts of 9 commands.
        assert (commands() - before) / 200 < 100


def test_all_take_part_when_one_cannot_keep_up(redis_url):
    busy = threading.Barrier(WAITERS + 1)
    hold = threading.Event()
    taken = []

    def received(message: Any) -> None:
        if hold.is_set():
            busy.wait(60)
        message.ack()
        taken.append(message)

    with waiters(redis_url, received), Connection(redis_url) as connection:
        producer = connection.Producer()
        for _ in range(50):
            producer.publish("x", routing_key="crowded")
            time.sleep(PACE)
        wait_until(lambda: len(taken) == 50, 60, "the messages to be taken")
        hold.set()
        for _ in range(WAITERS):
            producer.publish("x", routing_key="crowded")
        busy.wait(60)  # each has one, since nobody goes on before
        wait_until(lambda: len(taken) == 50 + WAITERS, 60, "the last")
