"""Every way to lose a link to RabbitMQ: consuming goes on by itself, publishing never hangs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from servers.process import ServerFailed
from servers.proxy import FaultProxy
from servers.rabbitmq import RabbitMQServer

from .conftest import Report
from .fleet import Fleet
from .links import (
    OF_THE_PATH,
    Fault,
    Scene,
    blackhole,
    longest_publish,
    longest_publish_beside,
    name_of,
    refuse,
)
from .rabbit import CONFIRMED, Probe, Vhost

#: How soon a consumer must have messages again.
PROMISE = 5.0
#: Seconds between heartbeats; a peer is gone after two of them.
HEARTBEAT, LONG_HEARTBEAT = 1, 5
#: Seconds that connecting, and a publish altogether, may take.
PATIENCE = 1.0
#: How late a publish may fail on a busy machine.
SLACK = 2.0


def heartbeat_of(soak: bool) -> int:
    """Seconds between heartbeats."""
    return LONG_HEARTBEAT if soak else HEARTBEAT


def stop_the_node(scene: Scene) -> None:
    scene.server.pause()
    scene.outage(4, 30)
    scene.server.resume()


def restart_the_node(scene: Scene) -> None:
    scene.server.restart()


def kill_the_node(scene: Scene) -> None:
    scene.server.kill()
    scene.outage(0.5, 20)
    scene.server.start()


def close_all_connections(scene: Scene) -> None:
    scene.server.ctl("close_all_connections", "--global", "the tests say so")


FAULTS = [*OF_THE_PATH, stop_the_node, restart_the_node, kill_the_node, close_all_connections]


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQServer]:
    """A node that the tests of this module may disturb."""
    with RabbitMQServer() as server:
        yield server


@pytest.fixture
def vhost(node: RabbitMQServer) -> Iterator[Vhost]:
    """An empty one of it."""
    made = Vhost(node)
    made.declare("links", "other")
    yield made
    node.delete_vhost(made.name)


@pytest.fixture
def scene(
    vhost: Vhost, new_proxy: Callable[[int], FaultProxy], fleet: Fleet, soak: bool
) -> Iterator[Scene]:
    """A consumer and a publisher that reach their node through a proxy."""
    proxy = new_proxy(vhost.server.port)
    heartbeat = heartbeat_of(soak)
    common = {
        "url": vhost.url(proxy.port),
        "connection": {"heartbeat": heartbeat, "connect_timeout": PATIENCE},
    }
    with ExitStack() as stack:
        consumer = fleet.start("consume", **common, queues=["links"], fanout="links.fanout")
        publisher = fleet.start(
            "publish",
            **common,
            queues=["other"],
            options=CONFIRMED,
            timeout=PATIENCE,
            pause=0.02,
            high_water=0,
        )
        probe = Probe(vhost, consumer)
        stack.callback(probe.close)
        consumer.wait_for("ready")
        assert len(probe.wait_received(30)) == 2
        publisher.wait_for("ok")
        yield Scene(vhost.server, proxy, consumer, publisher, probe, soak)


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_a_fault(fault: Fault, scene: Scene, report: Report) -> None:
    """Messages come again within five seconds, and no publish takes longer than it may."""
    begin = time.monotonic()
    fault(scene)
    healed = time.monotonic()
    again = scene.probe.wait_received(60)
    report(consumed_again=again)
    try:
        published = scene.publisher.wait_for("ok", 30, since=healed)
    except ServerFailed:
        report(longest_publish=f"more than {time.monotonic() - begin:.0f}")
        raise
    longest = longest_publish(scene.publisher, begin)
    report(published_again=published.at - healed, longest_publish=longest)
    assert set(again) == {"direct", "fanned"}
    assert max(again.values()) < PROMISE
    assert longest <= 2 * PATIENCE + SLACK  # to connect, and to publish
    scene.consumer.check()
    scene.publisher.check()


def test_a_half_open_link(scene: Scene, report: Report) -> None:
    """A peer that is gone without a word is found out after two heartbeats."""
    scene.proxy.half_open()
    again = scene.probe.wait_received(60)
    report(heartbeat=heartbeat_of(scene.soak), consumed_again=again)
    assert set(again) == {"direct", "fanned"}
    assert max(again.values()) < 2 * heartbeat_of(scene.soak) + PROMISE


@pytest.mark.parametrize("fault", [refuse, blackhole, stop_the_node], ids=name_of)
def test_the_timeout_of_a_publish(fault: Fault, scene: Scene, fleet: Fleet, report: Report) -> None:
    """`timeout` bounds a publish, connecting included, with default options."""
    longest = longest_publish_beside(fault, scene, fleet, report, PATIENCE / 2, options=CONFIRMED)
    assert longest <= PATIENCE / 2 + SLACK


def test_garbled_frames(
    scene: Scene, dice: random.Random, report: Report, fleet: Fleet, vhost: Vhost
) -> None:
    """Random bytes in place of frames, both ways: an error, and consuming resumes."""
    rounds = 100 if scene.soak else 10
    slowest = 0.0
    for number in range(rounds):
        scene.proxy.garble(dice, "up" if number % 2 else "down")
        again = scene.probe.wait_received(60)
        assert set(again) == {"direct", "fanned"}
        slowest = max(slowest, *again.values())
        scene.consumer.check()
        scene.publisher.check()
    errors = sorted({text_of(event.words) for event in scene.consumer.events("lost", "closed")})
    report(rounds=rounds, slowest=slowest, links_lost=len(scene.consumer.events("lost")))
    print("\n".join(errors))
    assert errors, "nothing was garbled"
    assert slowest < 2 * heartbeat_of(scene.soak) + PROMISE
    assert "panicked" not in scene.consumer.log_text() + scene.publisher.log_text()


def text_of(words: tuple[str, ...]) -> str:
    """What an error said, without the numbers in it."""
    return "".join("#" if c.isdigit() else c for c in " ".join(words))


def test_links_break_under_load(
    vhost: Vhost,
    new_proxy: Callable[[int], FaultProxy],
    fleet: Fleet,
    soak: bool,
    dice: random.Random,
    report: Report,
) -> None:
    """Links break under load: no message whose publish was confirmed is lost."""
    proxy = new_proxy(vhost.server.port)
    common = {"url": vhost.url(proxy.port), "connection": {"heartbeat": HEARTBEAT}}
    queues = ["links", "other"]
    for ack in ("late", "early", "batch"):
        fleet.start("consume", **common, queues=queues, ack=ack, prefetch=20, work=0.002)
    publishers = [
        fleet.start(
            "publish",
            **common,
            queues=queues,
            options=CONFIRMED,
            name=f"p{number}",
            timeout=2 * PATIENCE,
            pause=0.001,
        )
        for number in range(2)
    ]
    breaks = [
        proxy.cut,
        proxy.reset,
        proxy.half_open,
        lambda: proxy.cut_after(dice.randrange(5000), "down"),
        lambda: proxy.cut_after(dice.randrange(5000), "up"),
    ]
    for _ in range(100 if soak else 12):
        since = time.monotonic()
        for publisher in publishers:
            publisher.wait_for("ok", 30, since=since)
        time.sleep(dice.uniform(0, 0.3))  # the moment of the break
        dice.choice(breaks)()
    vhost.settle(fleet, report, *queues)
    assert any(consumer.events("lost") for consumer in fleet.of("consume"))
