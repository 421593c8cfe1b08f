"""Claims outlive links and servers, and belong to their owner for as long as it lives."""

from __future__ import annotations

import contextlib
import importlib
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from servers.process import ServerFailed, wait_until
from servers.proxy import FaultProxy
from servers.redis import RedisServer

from .conftest import Report
from .fleet import Fleet, Keys, Program, Verdict
from .probe import Probe

QUEUES = ["claims"]
#: Longer than any outage here: no claim of a living consumer may expire.
VISIBILITY = 10


def start_consumer(fleet: Fleet, url: str, ack: str, **spec: Any) -> Program:
    """A consumer that acknowledges in this way."""
    options = {"visibility_timeout": VISIBILITY}
    common = {"url": url, "queues": QUEUES, "options": options, "prefetch": 20, "work": 0.002}
    return fleet.start("consume", **common, ack=ack, **spec)


def settle(fleet: Fleet, server: RedisServer, report: Report, timeout: float = 60) -> Verdict:
    """Let the publishers end and the consumers finish; what it all amounted to."""
    fleet.end("publish")
    keys = Keys(server, QUEUES)
    try:
        keys.wait_empty(timeout)
    finally:
        fleet.end("consume")
        verdict = fleet.verdict(VISIBILITY)
        left = verdict.unsettled & set(keys.numbers())
        report(
            published=len(verdict.published),
            failed=len(verdict.failed),
            lost=len(verdict.unsettled - left),
            left_in_claims=len(left),
            repeated=verdict.repeated,
            wrongly=len(verdict.wrong),
            late=len(verdict.late),
        )
    assert not verdict.unsettled
    assert not verdict.wrong
    return verdict


@pytest.mark.parametrize("reconnect", ["plain", "mixin"])
def test_links_break_under_load(
    redis_server: RedisServer,
    new_proxy: Callable[[int], FaultProxy],
    fleet: Fleet,
    soak: bool,
    dice: random.Random,
    report: Report,
    reconnect: str,
) -> None:
    """Links break under load: nothing is lost, nothing late, nothing acknowledged comes again.

    Who uses the same connection again ("plain") keeps its claims over it; ConsumerMixin, like
    Celery, makes a new one and gives up what came over the old one.
    """
    proxy = new_proxy(redis_server.port)
    through = f"redis://127.0.0.1:{proxy.port}/0"
    for ack in ("late", "early", "batch"):
        start_consumer(fleet, through, ack, reconnect=reconnect)
    publisher = fleet.start("publish", url=redis_server.url(), queues=QUEUES, pause=0.001)
    breaks = [proxy.cut, proxy.reset, lambda: proxy.cut_after(dice.randrange(5000), "down")]
    for _ in range(100 if soak else 12):
        seen = len(publisher.events("ok"))
        wait_until(lambda s=seen: len(publisher.events("ok")) > s + 50, 30, "load")
        time.sleep(dice.uniform(0, 0.3))  # the moment of the break
        dice.choice(breaks)()
    verdict = settle(fleet, redis_server, report)
    assert not verdict.failed
    assert any(consumer.events("lost") for consumer in fleet.of("consume"))
    assert not verdict.late


def test_the_server_dies_under_load(
    new_redis: Callable[..., RedisServer],
    fleet: Fleet,
    soak: bool,
    dice: random.Random,
    report: Report,
) -> None:
    """A server with an AOF is killed under load: what it has confirmed is delivered."""
    server = new_redis(appendonly=True, config={"appendfsync": "always"})
    url = server.url()
    for ack in ("late", "batch"):
        start_consumer(fleet, url, ack)
    publishers = [
        fleet.start("publish", url=url, queues=QUEUES, name=f"p{n}", pause=0.001) for n in range(2)
    ]
    for publisher in publishers:
        publisher.wait_for("ok")
    for _ in range(20 if soak else 3):
        time.sleep(dice.uniform(0.2, 1))  # the moment of the kill
        server.kill()
        server.start()
        back = time.monotonic()
        for publisher in publishers:
            publisher.wait_for("ok", 30, since=back)
    settle(fleet, server, report)


@pytest.mark.parametrize("reconnect", ["plain", "mixin"])
def test_a_delivery_that_did_not_arrive(
    redis_server: RedisServer,
    new_proxy: Callable[[int], FaultProxy],
    fleet: Fleet,
    report: Report,
    reconnect: str,
) -> None:
    """A message that was claimed when its link broke comes within five seconds."""
    proxy = new_proxy(redis_server.port)
    consumer = fleet.start(
        "consume",
        url=f"redis://127.0.0.1:{proxy.port}/0",
        queues=QUEUES,
        fanout="claims.fanout",
        reconnect=reconnect,
    )
    consumer.wait_for("ready")
    probe = Probe(redis_server, consumer)
    assert len(probe.wait_received(30)) == 2
    keys = Keys(redis_server, QUEUES)
    keys.wait_empty(30)
    # The consumer hears of the message and takes it, but the answer breaks off.
    proxy.cut_after(5_000, "down")
    number, _ = probe.send(padding=100_000)
    wait_until(lambda: keys.waiting() == 0, 30, "the message to be taken")
    proxy.heal()
    healed = time.monotonic()
    with contextlib.suppress(ServerFailed):
        wait_until(lambda: number in numbers_got(consumer), 15)
    got = [event.at - healed for event in consumer.events("got") if event.number == number]
    report(came_after=got[0] if got else "more than 15")
    assert got
    assert got[0] < 5


def connects(connection: Any, queue: Any) -> bool:
    """Whether the queue can be looked into."""
    try:
        queue.get()
    except connection.connection_errors:
        return False
    return True


@pytest.mark.parametrize("then", ["goes_on", "closes"])
@pytest.mark.parametrize("how", ["broken", "swallowed"])
def test_an_acknowledgement_that_did_not_arrive(
    redis_server: RedisServer,
    new_proxy: Callable[[int], FaultProxy],
    fleet: Fleet,
    library: str,
    report: Report,
    how: str,
    then: str,
) -> None:
    """A message comes again if its acknowledgement failed, and only then."""
    kombu = importlib.import_module(library)
    fleet.start("publish", url=redis_server.url(), queues=QUEUES, count=1).wait_for("end")
    proxy = new_proxy(redis_server.port)
    options = {"visibility_timeout": 1, "socket_timeout": 1, "unacked_restore_interval": 0.1}
    url = f"redis://127.0.0.1:{proxy.port}/0"
    with kombu.Connection(url, transport_options=options) as connection:
        queue = kombu.Queue(QUEUES[0])(connection.channel())
        message = queue.get(accept=["json"])
        number = message.payload["id"]
        proxy.reset() if how == "broken" else proxy.blackhole("up")
        failed = False
        try:
            message.ack()
        except connection.connection_errors:
            failed = True
        proxy.reset()
        proxy.heal()
        if then == "closes":
            connection.close()
        else:
            wait_until(lambda: connects(connection, queue), 10, "a new link")
        other = fleet.start("consume", url=redis_server.url(), queues=QUEUES, options=options)
        with contextlib.suppress(ServerFailed):
            wait_until(lambda: number in numbers_got(other), 5)
    again = number in numbers_got(other)
    report(ack_failed=failed, came_again=again)
    assert again == failed


def test_a_callback_that_keeps_the_interpreter(
    new_redis: Callable[..., RedisServer], fleet: Fleet, report: Report
) -> None:
    """A callback keeps the GIL for ten visibility timeouts, and its message does not come again.

    On one server the busy consumer is alone, on the other a second one looks for expired claims.
    """
    visibility, count = 1, 3
    servers = {"alone": new_redis(), "with_a_peer": new_redis()}
    busy: dict[str, Program] = {}
    peers: dict[str, Program] = {}
    for name, server in servers.items():
        common = {
            "url": server.url(),
            "queues": QUEUES,
            "options": {"visibility_timeout": visibility, "unacked_restore_interval": 0.1},
        }
        busy[name] = fleet.start("consume", **common, prefetch=2, hold_gil=10.0 * visibility)
        busy[name].wait_for("ready")
        fleet.start("publish", url=server.url(), queues=QUEUES, count=count, high_water=0)
        busy[name].wait_for("got")
        if name == "with_a_peer":
            peers[name] = fleet.start("consume", **common)
            peers[name].wait_for("ready")
    for name, server in servers.items():
        busy[name].wait_for("woke", 30)
        Keys(server, QUEUES).wait_empty(30)
    fleet.end("consume")
    deliveries = {name: numbers_got(busy[name], peers.get(name)) for name in servers}
    report(messages=count, deliveries={name: len(got) for name, got in deliveries.items()})
    for got in deliveries.values():
        assert len(got) == len(set(got)) == count
    assert peers["with_a_peer"].events("acked"), "what the busy one does not hold is for others"


def numbers_got(*consumers: Program | None) -> list[str]:
    """The ids of all deliveries to these consumers."""
    return [event.number for one in consumers if one for event in one.events("got")]
