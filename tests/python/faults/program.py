"""One consumer or publisher under faults: ``program.py LIBRARY ROLE SPEC``.

It runs on stock Kombu and on kombu-rs alike. What happens to it is in its journal, a file with one
line for each event: nanoseconds of the machine's monotonic clock, the event, its words. A line is
with the kernel before the program goes on, so it is there also when the program is killed next.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LIBRARY = sys.argv[1]
kombu = importlib.import_module(LIBRARY)
ConsumerMixin = importlib.import_module(f"{LIBRARY}.mixins").ConsumerMixin

#: What a spec leaves out. `url`, `journal` and `queues` must be there.
DEFAULTS: dict[str, Any] = {
    "options": {},  # transport options
    "connection": {},  # further arguments of the Connection
    "fanout": None,  # consume a fanout exchange of this name as well
    "queue_arguments": {},
    "seed": 0,
    # of consumers
    "prefetch": 10,
    "work": 0.0,  # seconds of work for a message, at most
    "ack": "late",  # late; early; batch: some at once, or what is there when none comes; never
    "reconnect": "mixin",  # as ConsumerMixin does; "plain": use the same connection again
    "die_at": None,  # SIGKILL to itself in the callback of this message, counted from 1
    "hold_gil": 0.0,  # seconds that the first callback keeps the interpreter to itself
    # of publishers
    "name": "p",  # first part of the ids
    "count": None,  # so many; None: until SIGTERM
    "timeout": None,  # of one publish
    "pause": 0.0,  # seconds between two messages
    "high_water": 500,  # wait while a queue is longer
    "size": 100,  # bytes of padding
    "priorities": [0],
    # of threads that share a connection: each publishes `count` messages and gets them back
    "threads": 8,
    "one_channel": False,
    # of who opens and closes: so many channels on one connection, and so many connections
    "channels": 0,
    "connections": 0,
    # of both in one (a peer): publishes a message and waits for it, again and again
    "per_line": 50,  # messages for each line of the journal
}


class Journal:
    """The program's journal."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, *words: object) -> None:
        """Add a line."""
        text = " ".join(str(word).replace("\n", " ") for word in (event, *words))
        os.write(self._fd, f"{time.monotonic_ns()} {text}\n".encode())

    def error(self, event: str, error: BaseException, *words: object) -> None:
        """Add a line about an error."""
        self.write(event, *words, f"{type(error).__name__}: {error}")


def connect(spec: SimpleNamespace) -> Any:
    """The connection that a spec describes; it connects when it is used."""
    return kombu.Connection(spec.url, transport_options=spec.options, **spec.connection)


def keep_interpreter(seconds: float) -> None:
    """Sleep without giving the interpreter to another thread."""
    # A function of a PyDLL is called with the lock held.
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


class Consumer(ConsumerMixin):
    """Consumes until SIGTERM."""

    def __init__(self, spec: SimpleNamespace, journal: Journal) -> None:
        self.spec = spec
        self.journal = journal
        self.random = random.Random(spec.seed)
        self.connection = connect(spec)
        self.consuming: Any = None
        self.count = 0
        self.waiting: list[Any] = []
        self.last = 0.0
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_: object) -> None:
        self.should_stop = True

    def queues(self) -> list[Any]:
        arguments = self.spec.queue_arguments
        queues = [kombu.Queue(name, queue_arguments=arguments) for name in self.spec.queues]
        if self.spec.fanout:
            exchange = kombu.Exchange(self.spec.fanout, type="fanout")
            name = f"{self.spec.fanout}.{os.getpid()}"
            queues.append(kombu.Queue(name, exchange=exchange, auto_delete=True))
        return queues

    def get_consumers(self, new_consumer: Any, channel: Any) -> list[Any]:
        self.waiting.clear()
        # ConsumerMixin consumes over a copy of the connection.
        self.consuming = channel.connection.client
        channel.basic_qos(0, self.spec.prefetch, False)
        return [
            new_consumer(queues=self.queues(), on_message=self.received, accept=["json"]),
        ]

    def on_consume_ready(self, *_: object, **__: object) -> None:
        self.journal.write("ready")

    def on_connection_error(self, exc: Exception, interval: float) -> None:
        self.journal.error("refused", exc)

    def received(self, message: Any) -> None:
        journal, spec = self.journal, self.spec
        self.count += 1
        try:
            number = message.payload["id"]
        except Exception as error:
            journal.error("garbage", error)
            message.requeue()
            return
        journal.write("got", number, int(bool(message.delivery_info.get("redelivered"))))
        if self.count == spec.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.hold_gil and self.count == 1:
            keep_interpreter(spec.hold_gil)
            journal.write("woke")
        if spec.ack == "early":
            self.settle([message])
        if spec.work:
            time.sleep(self.random.uniform(0, spec.work))
        journal.write("done", number)
        if spec.ack == "late":
            self.settle([message])
        elif spec.ack == "batch":
            self.waiting.append(message)
            self.last = time.monotonic()
            if len(self.waiting) >= max(1, spec.prefetch // 2):
                self.settle_batch()

    def settle_batch(self) -> None:
        waiting, self.waiting = self.waiting, []
        self.settle(waiting)

    def on_iteration(self) -> None:
        if self.waiting and time.monotonic() - self.last > 0.2:
            self.settle_batch()
        if self.spec.connection.get("heartbeat"):
            self.consuming.heartbeat_check()  # as stock Kombu wants it of its users

    def settle(self, messages: list[Any]) -> None:
        numbers = ",".join(message.payload["id"] for message in messages)
        self.journal.write("ack", numbers)
        try:
            if LIBRARY == "kombu":  # on Redis it takes `multiple` for one
                for message in messages:
                    message.ack()
            else:
                messages[-1].ack(multiple=len(messages) > 1)
        except self.connection_errors as error:
            self.journal.error("unacked", error, numbers)
            raise
        self.journal.write("acked", numbers)

    def main(self) -> None:
        run = self.run if self.spec.reconnect == "mixin" else self.run_plain
        while not self.should_stop:
            with suppress(*self.connection.channel_errors):  # it is in the journal
                run()
        self.connection.release()

    @property
    def connection_errors(self) -> tuple[type[Exception], ...]:
        return self.connection.connection_errors

    @contextmanager
    def consumer_context(self, **kwargs: Any) -> Iterator[Any]:
        with super().consumer_context(**kwargs) as context:
            try:
                yield context
            except self.connection_errors as error:
                # Before the channel is closed, which gives up its messages: others may have them
                # before this program comes to its next line.
                self.journal.error("lost", error)
                raise
            except self.connection.channel_errors as error:
                self.journal.error("closed", error)
                raise

    def run_plain(self) -> None:
        """Never makes a new connection, channel or consumer: the next use connects again."""
        channel = self.connection.default_channel
        (consumer,) = self.get_consumers(lambda **k: kombu.Consumer(channel, **k), channel)
        consumer.consume()
        self.journal.write("ready")
        while not self.should_stop:
            try:
                self.on_iteration()
                self.connection.drain_events(timeout=0.5)
            except TimeoutError:
                pass
            except self.connection_errors as error:
                self.journal.error("lost", error)
        consumer.cancel()


class Publisher:
    """Publishes until SIGTERM, or a number of messages."""

    def __init__(self, spec: SimpleNamespace, journal: Journal) -> None:
        self.spec = spec
        self.journal = journal
        self.random = random.Random(spec.seed)
        self.stopping = False
        self.connection: Any = None
        self.producer: Any = None
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_: object) -> None:
        self.stopping = True

    def connect(self) -> None:
        self.connection = connect(self.spec)
        self.producer = self.connection.Producer()

    def publish(self, number: str) -> None:
        spec = self.spec
        self.journal.write("try", number)
        start = time.monotonic()
        try:
            if self.connection is None:
                self.connect()
            self.producer.publish(
                {"id": number, "padding": "x" * spec.size},
                exchange=spec.fanout or "",
                routing_key="" if spec.fanout else self.random.choice(spec.queues),
                priority=self.random.choice(spec.priorities),
                timeout=spec.timeout,
            )
        except Exception as error:
            took = time.monotonic() - start
            self.journal.error("failed", error, number, f"{took:.3f}")
            # The next one gets a link of its own, as from a pool that drops what is broken.
            self.connection = None
        else:
            self.journal.write("ok", number, f"{time.monotonic() - start:.3f}")

    def hold_back(self) -> None:
        """Wait while the consumers are behind."""
        while not self.stopping and self.connection is not None:
            try:
                channel = self.connection.default_channel
                if all(self.length(channel, name) < self.spec.high_water for name in self.queues):
                    return
            except Exception:
                self.connection = None
                return
            time.sleep(0.005)

    @property
    def queues(self) -> list[str]:
        return [] if self.spec.fanout else self.spec.queues

    def length(self, channel: Any, name: str) -> int:
        try:
            return int(channel.queue_declare(name, passive=True).message_count)
        except self.connection.channel_errors:
            return 0  # an empty list is no list

    def main(self) -> None:
        self.journal.write("ready")
        number = 0
        while not self.stopping and number != self.spec.count:
            if number % 50 == 0 and self.spec.high_water:
                self.hold_back()
            self.publish(f"{self.spec.name}-{number}")
            number += 1
            if self.spec.pause:
                time.sleep(self.spec.pause)
        self.journal.write("end")


class Peer:
    """Publishes a message to a queue of its own and consumes it, again and again until SIGTERM."""

    def __init__(self, spec: SimpleNamespace, journal: Journal) -> None:
        self.spec = spec
        self.journal = journal
        self.stopping = False
        self.count = 0
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_: object) -> None:
        self.stopping = True

    def received(self, message: Any) -> None:
        message.ack()
        self.count += 1
        if self.count % self.spec.per_line == 0:
            self.journal.write("sent", self.count)

    def main(self) -> None:
        (name,) = self.spec.queues
        with connect(self.spec) as connection:
            producer = connection.Producer()
            consumer = kombu.Consumer(
                connection, [kombu.Queue(name)], on_message=self.received, accept=["json"]
            )
            with consumer:
                self.journal.write("ready")
                while not self.stopping:
                    sent = self.count
                    producer.publish({"n": sent}, routing_key=name)
                    while self.count == sent:
                        connection.drain_events(timeout=30)


class Threads:
    """Threads that share a connection; each publishes to a queue of its own and gets that back."""

    def __init__(self, spec: SimpleNamespace, journal: Journal) -> None:
        self.spec = spec
        self.journal = journal

    def body(self, name: str, number: int) -> dict[str, Any]:
        """It shows when parts of two messages were put together."""
        text = f"{name}/{number} " * (1 + number % 50)
        return {
            "name": name,
            "number": number,
            "text": text,
            "sum": sha256(text.encode()).hexdigest(),
        }

    def talk(self, name: str, connection: Any, shared: Any) -> None:
        try:
            channel = shared or connection.channel()
            producer = kombu.Producer(channel)
            queue = kombu.Queue(name)(channel)
            for number in range(self.spec.count):
                body = self.body(name, number)
                producer.publish(body, routing_key=name)
                self.journal.write("ok", f"{name}-{number}")
                message = queue.get(accept=["json"])
                right = message is not None and message.payload == body
                self.journal.write("right" if right else "wrong", f"{name}-{number}")
                if message is not None:
                    message.ack()
        except Exception as error:
            self.journal.error("failed", error, name)

    def main(self) -> None:
        with connect(self.spec) as connection:
            names = [f"{self.spec.queues[0]}-{number}" for number in range(self.spec.threads)]
            for name in names:
                kombu.Queue(name)(connection.default_channel).declare()
            shared = connection.channel() if self.spec.one_channel else None
            threads = [
                threading.Thread(target=self.talk, args=(name, connection, shared), daemon=True)
                for name in names
            ]
            self.journal.write("ready")
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.journal.write("end")


class Churn:
    """Opens and closes channels and connections, and says how large it is and what it has open."""

    def __init__(self, spec: SimpleNamespace, journal: Journal) -> None:
        self.spec = spec
        self.journal = journal

    def measure(self, kind: str) -> None:
        """Resident memory in bytes, and open descriptors."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.journal.write(
            kind, pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd"))
        )

    def publish(self, channel: Any) -> None:
        kombu.Producer(channel).publish({"id": "x"}, routing_key=self.spec.queues[0])

    def repeat(self, kind: str, count: int, work: Callable[[], None]) -> None:
        """`work` so many times; measures after each tenth of them."""
        for number in range(count):
            work()
            if (number + 1) % (count // 10) == 0:
                self.measure(kind)

    def main(self) -> None:
        with connect(self.spec) as connection:

            def open_channel() -> None:
                with connection.channel() as channel:
                    self.publish(channel)

            self.repeat("channels", self.spec.channels, open_channel)

        def open_connection() -> None:
            with connect(self.spec) as connection:
                self.publish(connection.default_channel)

        self.repeat("connections", self.spec.connections, open_connection)
        self.journal.write("end")


ROLES = {
    "consume": Consumer,
    "publish": Publisher,
    "peer": Peer,
    "threads": Threads,
    "churn": Churn,
}


def main() -> None:
    """Does what the command line says."""
    spec = SimpleNamespace(**(DEFAULTS | json.loads(sys.argv[3])))
    ROLES[sys.argv[2]](spec, Journal(spec.journal)).main()


if __name__ == "__main__":
    main()
