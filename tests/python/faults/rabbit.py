"""A virtual host of RabbitMQ, seen with py-amqp: by neither of the libraries that are compared."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import amqp

from servers.process import ServerFailed, wait_until
from servers.rabbitmq import RabbitMQServer

from .conftest import Report
from .fleet import Fleet, Program, Verdict
from .probe import Sender

#: Transport options of publishers: a publish returns when the broker has the message.
CONFIRMED = {"confirm_publish": True}


class Vhost:
    """An empty virtual host; `arguments` are those of its queues."""

    def __init__(self, server: RabbitMQServer, arguments: dict[str, Any] | None = None) -> None:
        self.server = server
        self.name = server.new_vhost()
        self.arguments = arguments or {}

    def url(self, port: int | None = None) -> str:
        """Its URL, by another port if there is a proxy."""
        return f"amqp://guest:guest@127.0.0.1:{port or self.server.port}/{self.name}"

    def connect(self) -> amqp.Connection:
        """A connection, open."""
        connection = amqp.Connection(
            f"127.0.0.1:{self.server.port}",
            virtual_host=self.name,
            connect_timeout=2,
            read_timeout=2,
            confirm_publish=True,
        )
        connection.connect()
        return connection

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel on a connection of its own."""
        with self.connect() as connection:
            yield connection.channel()

    def declare(self, *queues: str) -> None:
        """Make durable queues."""
        with self.channel() as channel:
            for name in queues:
                channel.queue_declare(
                    name, durable=True, auto_delete=False, arguments=self.arguments
                )

    def rest(self, *queues: str) -> set[str]:
        """Take what is left in the queues; the ids."""
        numbers = set()
        with self.channel() as channel:
            for name in queues:
                while (message := channel.basic_get(name, no_ack=True)) is not None:
                    numbers.add(json.loads(message.body)["id"])
        return numbers

    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged."""
        counts = self.server.ctl("list_queues", "-p", self.name, "--no-table-headers", "messages")
        return not any(int(count) for count in counts.split())

    def settle(self, fleet: Fleet, report: Report, *queues: str, timeout: float = 60) -> Verdict:
        """Let the publishers end and the consumers finish; what it all amounted to."""
        fleet.end("publish")

        with contextlib.suppress(ServerFailed):
            wait_until(lambda: not fleet.verdict(None).unsettled, timeout, interval=0.3)
            wait_until(self.is_empty, timeout)
        fleet.end("consume")
        left = self.rest(*queues)
        found = fleet.verdict(None)
        report(
            published=len(found.published),
            failed=len(found.failed),
            lost=len(found.unsettled - left),
            stuck=len(found.unsettled & left),
            repeated=found.repeated,
        )
        assert not found.unsettled
        return found


class Probe(Sender):
    """A sender on RabbitMQ. It keeps its connection; `close` when it is done."""

    down = (OSError, amqp.AMQPError, AttributeError)  # the last of a connection that was closed

    def __init__(self, vhost: Vhost, consumer: Program) -> None:
        super().__init__(consumer)
        self.vhost = vhost
        self._connection: Any = None

    def put(self, queue: str, exchange: str, direct: str, fanned: str, padding: int) -> None:
        try:
            channel = self._channel()
            # The consumer's queue of the exchange is gone while the consumer is.
            channel.exchange_declare(exchange, "fanout", durable=True, auto_delete=False)
            for number, target in ((direct, ("", queue)), (fanned, (exchange, ""))):
                headers = {"padding": "x" * padding}
                message = amqp.Message(
                    json.dumps({"id": number}),
                    content_type="application/json",
                    application_headers=headers,
                )
                channel.basic_publish(message, *target)
        except self.down:
            self.close()
            raise

    def _channel(self) -> Any:
        if self._connection is None:
            self._connection = self.vhost.connect()
        return self._connection.channel(1)

    def close(self) -> None:
        """Close its connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*self.down):
                connection.collect()
