"""A server that refuses: a typed error in time, and nothing that was popped is lost."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from servers.process import ServerFailed, free_port, wait_until
from servers.redis import RedisServer

from .conftest import Report
from .fleet import Fleet, Keys, Program
from .probe import Probe

QUEUES = ["refused"]
VISIBILITY = 2
#: Seconds that a refusal may take on a busy machine.
SOON = 5.0


def refusal(library: str, url: str, body: object, **options: Any) -> tuple[Exception, Any]:
    """The error of a publish, and its connection."""
    kombu = importlib.import_module(library)
    with kombu.Connection(url, transport_options=options) as connection:
        start = time.monotonic()
        with pytest.raises(Exception) as raised:
            connection.Producer().publish(body, routing_key=QUEUES[0])
        assert time.monotonic() - start < SOON
        return raised.value, connection


def numbers(program: Program, kind: str) -> set[str]:
    """The ids of the messages that a program has an event of."""
    return {event.number for event in program.events(kind)}


def test_out_of_memory(
    new_redis: Callable[..., RedisServer], fleet: Fleet, library: str, report: Report
) -> None:
    """Out of memory: publishing fails with a typed error; consuming and holding claims go on."""
    server = new_redis(config={"maxmemory-policy": "noeviction"})
    keys = Keys(server, QUEUES)
    options = {"visibility_timeout": VISIBILITY}
    common = {"url": server.url(), "queues": QUEUES}

    def publish(name: str) -> set[str]:
        publisher = fleet.start("publish", **common, name=name, count=5, high_water=0)
        publisher.wait_for("end")
        return {event.number for event in publisher.events("ok")}

    held = publish("held")
    holder = fleet.start("consume", **common, options=options, prefetch=5, ack="never")
    wait_until(lambda: keys.claims() == (5, 5), 30, "claims")
    taker = fleet.start("consume", **common, options=options)
    taker.wait_for("ready")
    taker.pause()
    rest = publish("rest")
    server.command("CONFIG", "SET", "maxmemory", 1)
    error, connection = refusal(library, server.url(), {"n": 1})
    taker.resume()
    with contextlib.suppress(ServerFailed):
        wait_until(lambda: rest <= numbers(taker, "acked"), 15, "the rest of the messages")
    time.sleep(3 * VISIBILITY)  # what is held is renewed meanwhile
    early = numbers(taker, "got") & held
    in_need = numbers(taker, "acked") & rest
    server.command("CONFIG", "SET", "maxmemory", 0)
    lost = (held | rest) - numbers(taker, "got") - set(keys.numbers())
    holder.kill()
    report(
        error=f"{type(error).__module__}.{type(error).__name__}: {error}",
        received_in_need=len(in_need),
        repeated_while_held=len(early),
        lost=len(lost),
    )
    assert isinstance(error, connection.connection_errors + connection.channel_errors)
    assert in_need == rest
    assert not early
    assert not lost
    keys.wait_empty(60)
    fleet.end("consume")
    assert numbers(taker, "acked") == held | rest


def test_a_server_that_becomes_a_replica(
    new_redis: Callable[..., RedisServer], fleet: Fleet, library: str, report: Report
) -> None:
    """A master is a replica for a while: publishing fails, nothing is lost, nothing is stuck."""
    server = new_redis()
    keys = Keys(server, QUEUES)
    common = {"url": server.url(), "queues": QUEUES}
    consumer = fleet.start("consume", **common, fanout="refused.fanout", work=0.02)
    probe = Probe(server, consumer)
    consumer.wait_for("ready")
    assert len(probe.wait_received(30)) == 2
    # Faster than they are consumed: some are claimed, and acknowledged when it cannot be written.
    publisher = fleet.start("publish", **common, pause=0.002, high_water=50)
    wait_until(lambda: keys.waiting() > 20, 30, "more messages than are consumed")
    server.command("REPLICAOF", "127.0.0.1", free_port())
    publisher.wait_for("failed", 30)
    error, connection = refusal(library, server.url(), {"n": 1})
    report(error=f"{type(error).__module__}.{type(error).__name__}: {error}")
    consumer.check()
    server.command("REPLICAOF", "NO", "ONE")
    master = time.monotonic()
    again = probe.wait_received(60)
    report(consumed_again=again)
    publisher.wait_for("ok", 30, since=master)
    fleet.end("publish")
    try:
        keys.wait_empty(30)
    finally:
        fleet.end("consume")
        verdict = fleet.verdict(3600)
        report(
            lost=len(verdict.unsettled - set(keys.numbers())),
            wrongly=len(verdict.wrong),
            claims_left=keys.claims()[0],
        )
    assert "read only replica" in str(error)
    assert isinstance(error, connection.connection_errors + connection.channel_errors)
    assert set(again) == {"direct", "fanned"}
    assert max(again.values()) < 5
    assert not verdict.unsettled
    assert not verdict.wrong


@pytest.mark.parametrize(
    "rules",
    [
        "-eval -evalsha -script",
        "-eval -evalsha",
        "-client|tracking",
        "-client -eval -evalsha -script",
    ],
    ids=["no_scripts", "no_eval", "no_tracking", "nothing"],
)
def test_a_user_who_may_not(
    new_redis: Callable[..., RedisServer], fleet: Fleet, report: Report, rules: str
) -> None:
    """What an ACL forbids is done without: only a worker that dies makes messages come twice."""
    server = new_redis(users={"narrow": f">secret ~* &* +@all {rules}"})
    keys = Keys(server, QUEUES)
    url = server.url(user="narrow", password="secret")
    common = {"url": url, "queues": QUEUES, "options": {"visibility_timeout": VISIBILITY}}
    holder = fleet.start("consume", **common, prefetch=5, ack="never")
    publisher = fleet.start("publish", **common, pause=0.002)
    wait_until(lambda: keys.claims() == (5, 5), 30, "claims")
    others = [fleet.start("consume", **common) for _ in range(2)]
    wait_until(lambda: len(numbers(others[0], "acked")) > 100, 30, "messages that are received")
    holder.kill()
    held = numbers(holder, "got")
    wait_until(
        lambda: held <= numbers(others[0], "acked") | numbers(others[1], "acked"),
        30,
        "what the dead consumer held",
    )
    fleet.end("publish")
    try:
        keys.wait_empty(30)
    finally:
        fleet.end("consume")
        verdict = fleet.verdict(VISIBILITY)
        report(
            published=len(numbers(publisher, "ok")),
            lost=len(verdict.unsettled - set(keys.numbers())),
            wrongly=len(verdict.wrong),
            claims_left=keys.claims()[0],
        )
    assert not verdict.unsettled
    assert not verdict.wrong
