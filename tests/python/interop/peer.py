"""One side of an interop test: publishes and consumes on orders that come in as lines of JSON.

It runs under stock Kombu and under kombu-rs alike (``peer.py kombu`` or ``peer.py kombu_rs``), so
both sides of a test go through the same calls. Bodies travel as Python expressions.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import decimal
import importlib
import json
import sys
import time
import traceback
import uuid
from typing import Any

ACCEPT = ["json", "pickle", "yaml", "text/plain", "application/data"]
NAMES = {"datetime": datetime, "decimal": decimal, "uuid": uuid, "inf": float("inf")}


def read_value(text: str) -> Any:
    """The value of an expression made of literals and the constructors in NAMES."""
    try:
        return ast.literal_eval(text)
    except ValueError:
        return eval(text, {"__builtins__": {}}, NAMES)  # the test wrote it


class Peer:
    """Holds the connections of one side."""

    def __init__(self, name: str) -> None:
        self.kombu = importlib.import_module(name)
        importlib.import_module(f"{name}.serialization").enable_insecure_serializers()
        self.connection: Any = None
        self.held: list[Any] = []

    def connect(self, url: str, options: dict[str, Any]) -> str:
        """Opens the connection; returns the file of the library, for the test to look at."""
        self.connection = self.kombu.Connection(url, transport_options=options)
        self.connection.connect()
        if self.connection.transport.driver_type == "sql":
            self.connection.transport.polling_interval = 0.02  # stock Kombu looks once a second
        return str(self.kombu.__file__)

    def queue(self, spec: dict[str, Any]) -> Any:
        """A bound queue from its description."""
        exchange = self.kombu.Exchange(
            spec.get("exchange", ""), type=spec.get("type", "direct"), durable=True
        )
        return self.kombu.Queue(
            spec["queue"],
            exchange=exchange,
            routing_key=spec.get("routing_key", spec["queue"]),
        )(self.connection.default_channel)

    def declare(self, spec: dict[str, Any]) -> None:
        """Declares a queue, its exchange and their binding."""
        self.queue(spec).declare()

    def publish(self, spec: dict[str, Any], bodies: list[str], options: dict[str, Any]) -> None:
        """Publishes bodies; a body is a Python literal."""
        producer = self.connection.Producer()
        for body in bodies:
            producer.publish(
                read_value(body),
                exchange=spec.get("exchange", ""),
                routing_key=spec.get("routing_key", spec["queue"]),
                **options,
            )

    def _seen(self, message: Any, then: str) -> dict[str, Any]:
        """What the other process may know of a message; then "ack", "requeue" or "hold" it."""
        info = message.delivery_info
        seen = {
            "body": repr(message.decode()),
            "headers": message.headers,
            "content_type": message.content_type,
            "content_encoding": message.content_encoding,
            "properties": {
                key: value
                for key, value in message.properties.items()
                if isinstance(value, (str, int, float, type(None)))
            },
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
            "redelivered": bool(info.get("redelivered")),
        }
        if then == "hold":
            self.held.append(message)
        else:
            getattr(message, then)()
        return seen

    def get(self, spec: dict[str, Any], count: int, then: str, timeout: float) -> list[Any]:
        """Gets `count` messages one by one (basic.get)."""
        queue, got = self.queue(spec), []
        deadline = time.monotonic() + timeout
        while len(got) < count:
            message = queue.get(accept=ACCEPT)
            if message is not None:
                got.append(self._seen(message, then))
            elif time.monotonic() > deadline:
                raise TimeoutError(f"{len(got)} of {count} messages after {timeout} s")
        return got

    def consume(self, spec: dict[str, Any], count: int, then: str, timeout: float) -> list[Any]:
        """Consumes `count` messages."""
        got: list[Any] = []
        consumer = self.kombu.Consumer(
            self.connection.default_channel,
            [self.queue(spec)],
            on_message=lambda message: got.append(self._seen(message, then)),
            accept=ACCEPT,
        )
        consumer.qos(prefetch_count=count)
        deadline = time.monotonic() + timeout
        with consumer:
            while len(got) < count:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(got)} of {count} messages after {timeout} s")
                with contextlib.suppress(TimeoutError):
                    self.connection.drain_events(timeout=0.5)
                self._restore_now()
        return got

    def take_all(self, spec: dict[str, Any], idle: float) -> list[Any]:
        """Takes messages until none has come for `idle` seconds; returns their bodies."""
        got: list[Any] = []
        consumer = self.kombu.Consumer(
            self.connection.default_channel,
            [self.queue(spec)],
            on_message=lambda message: (got.append(repr(message.decode())), message.ack()),
        )
        with consumer, contextlib.suppress(TimeoutError):
            while True:
                self.connection.drain_events(timeout=idle)
        return got

    def _restore_now(self) -> None:
        """Stock Kombu looks for expired claims every tenth time it is called: call it often."""
        qos = self.connection.default_channel.qos
        if self.kombu.__name__ == "kombu" and hasattr(qos, "restore_visible"):
            qos.restore_visible(interval=1)

    def subscribe(self, spec: dict[str, Any]) -> None:
        """Starts to consume a fanout queue before something is published to it."""
        self.fanned: list[Any] = []
        consumer = self.kombu.Consumer(
            self.connection.default_channel,
            [self.queue(spec)],
            callbacks=[lambda body, message: (self.fanned.append(repr(body)), message.ack())],
        )
        consumer.consume()
        # A subscription reaches the server with the first look for events.
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=0.3)

    def collect(self, count: int, timeout: float) -> list[Any]:
        """What the subscription got."""
        while len(self.fanned) < count:
            self.connection.drain_events(timeout=timeout)
        return self.fanned

    def size(self, spec: dict[str, Any]) -> int:
        """How many messages wait in the queue; 0 also when there is none (Redis: an empty list)."""
        try:
            return int(self.queue(spec).queue_declare(passive=True).message_count)
        except self.connection.channel_errors:
            return 0

    def purge(self, spec: dict[str, Any]) -> int:
        """Empties the queue."""
        return int(self.queue(spec).purge())

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()


def main() -> None:
    """Answers one line of JSON for each line of JSON."""
    peer = Peer(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"value": getattr(peer, order["do"])(*order["with"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
