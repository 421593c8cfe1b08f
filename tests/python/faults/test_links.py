"""Every way to lose a link: consuming goes on by itself, publishing never hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from servers.proxy import FaultProxy
from servers.redis import RedisServer

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
from .probe import Probe

#: How soon a consumer must have messages again.
PROMISE = 5.0
#: Seconds that an answer, and a connection, may take for the programs here.
PATIENCE = 1.0
#: Seconds that a publish may take altogether where it is told so. With the slack it is less than
#: any outage here.
LIMIT = 0.5
#: How late a publish may fail on a busy machine.
SLACK = 2.0


def links(scene: Scene) -> list[str]:
    """The ids of the consumer's connections, by its client name."""
    lines = scene.server.command("CLIENT", "LIST").decode().splitlines()
    clients = [dict(part.split("=", 1) for part in line.split(" ")) for line in lines]
    return [client["id"] for client in clients if client["name"] == "watched"]


def stop_the_server(scene: Scene) -> None:
    scene.server.pause()
    scene.outage(4, 30)
    scene.server.resume()


def kill_the_server(scene: Scene) -> None:
    scene.server.kill()
    scene.outage(0.5, 20)
    scene.server.start()


FAULTS = [*OF_THE_PATH, stop_the_server, kill_the_server]


@pytest.fixture
def scene(
    new_redis: Callable[..., RedisServer],
    new_proxy: Callable[[int], FaultProxy],
    fleet: Fleet,
    soak: bool,
) -> Scene:
    """A consumer and a publisher that reach their server through a proxy."""
    server = new_redis(appendonly=True, config={"appendfsync": "always"})
    proxy = new_proxy(server.port)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    short = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
    # The outages are short here; in the long run consumers have their defaults.
    options = {"client_name": "watched"} | ({} if soak else short)
    consumer = fleet.start(
        "consume", url=url, queues=["links"], fanout="links.fanout", options=options
    )
    publisher = fleet.start(
        "publish",
        url=url,
        queues=["other"],
        options=short,
        connection={"connect_timeout": PATIENCE},
        pause=0.02,
        high_water=0,
    )
    scene = Scene(server, proxy, consumer, publisher, Probe(server, consumer), soak)
    consumer.wait_for("ready")
    assert len(scene.probe.wait_received(30)) == 2
    publisher.wait_for("ok")
    return scene


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_a_fault(fault: Fault, scene: Scene, report: Report) -> None:
    """Messages come again within five seconds, and no publish takes longer than it may."""
    begin = time.monotonic()
    fault(scene)
    healed = time.monotonic()
    again = scene.probe.wait_received(60)
    report(consumed_again=again)
    published = scene.publisher.wait_for("ok", 60, since=healed)
    longest = longest_publish(scene.publisher, begin)
    report(published_again=published.at - healed, longest_publish=longest)
    assert set(again) == {"direct", "fanned"}
    assert max(again.values()) < PROMISE
    assert longest <= 2 * PATIENCE + SLACK  # to connect, and to have an answer
    scene.consumer.check()
    scene.publisher.check()


def test_kills_of_each_link(scene: Scene, report: Report) -> None:
    """CLIENT KILL of each connection, and of all: messages come again within five seconds."""
    for number, link in enumerate(links(scene)):
        scene.server.command("CLIENT", "KILL", "ID", link)
        again = scene.probe.wait_received(60)
        report(**{f"link_{number}": again})
        assert set(again) == {"direct", "fanned"}
        assert max(again.values()) < PROMISE
    scene.server.drop_clients()
    again = scene.probe.wait_received(60)
    report(all_links=again)
    assert set(again) == {"direct", "fanned"}
    assert max(again.values()) < PROMISE


def test_a_half_open_link(scene: Scene, report: Report) -> None:
    """A peer that is gone without a word is found out in time, also with default options."""
    scene.proxy.half_open()
    again = scene.probe.wait_received(60)
    report(consumed_again=again)
    assert set(again) == {"direct", "fanned"}
    assert max(again.values()) < PROMISE


@pytest.mark.parametrize("fault", [refuse, blackhole, stop_the_server], ids=name_of)
def test_the_timeout_of_a_publish(fault: Fault, scene: Scene, fleet: Fleet, report: Report) -> None:
    """`timeout` bounds a publish, connecting included, with default transport options."""
    longest = longest_publish_beside(fault, scene, fleet, report, LIMIT)
    assert longest <= LIMIT + SLACK
