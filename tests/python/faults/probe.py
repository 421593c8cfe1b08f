"""Messages put on a Redis server by hand, and how soon a consumer gets one."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
import uuid

from servers.process import ServerFailed, wait_until
from servers.redis import RedisServer
from servers.resp import RespError

from .fleet import Program


def envelope(number: str, exchange: str, queue: str, padding: int = 0) -> str:
    """A message as Kombu writes it, so many bytes longer than it has to be."""
    body = json.dumps({"id": number}).encode()
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"padding": "x" * padding},
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": exchange, "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


class Probe:
    """Sends messages to one consumer, past whatever is between it and its server."""

    def __init__(self, server: RedisServer, consumer: Program) -> None:
        self.server = server
        self.consumer = consumer
        self._numbers = itertools.count()

    def send(self, padding: int = 0) -> tuple[str, str]:
        """One message to its queue, with `padding`, and one to its fanout exchange; their ids."""
        number = next(self._numbers)
        direct, fanned = f"direct-{number}", f"fanned-{number}"
        (queue,) = self.consumer.spec["queues"]
        exchange = self.consumer.spec["fanout"]
        with self.server.client() as client:
            client.command("LPUSH", queue, envelope(direct, "", queue, padding))
            client.command("PUBLISH", f"/0.{exchange}", envelope(fanned, exchange, ""))
        return direct, fanned

    def wait_received(self, timeout: float) -> dict[str, float]:
        """Send until the consumer gets messages both ways again: after how many seconds it did."""
        start = time.monotonic()
        sent: dict[str, set[str]] = {"direct": set(), "fanned": set()}
        got: dict[str, float] = {}
        last = 0.0

        def look() -> bool:
            nonlocal last
            if time.monotonic() - last >= 0.05:
                last = time.monotonic()
                # The server may be on its way up.
                with contextlib.suppress(OSError, RespError):
                    for number in self.send():
                        sent[number.partition("-")[0]].add(number)
            for event in self.consumer.events("got"):
                way = event.number.partition("-")[0]
                if way not in got and event.number in sent.get(way, ()):
                    got[way] = event.at - start
            return len(got) == len(sent)

        with contextlib.suppress(ServerFailed):
            wait_until(look, timeout)
        return got
