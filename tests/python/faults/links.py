"""Ways to break the link between programs and their broker, through a proxy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from servers.process import ServerFailed
from servers.proxy import FaultProxy

from .fleet import Fleet, Program


@dataclass
class Scene:
    """What a fault works on."""

    server: Any
    proxy: FaultProxy
    consumer: Program
    publisher: Program
    probe: Any
    soak: bool

    def outage(self, seconds: float, long: float) -> None:
        """Let it last."""
        time.sleep(long if self.soak else seconds)


#: What happens to a scene.
Fault = Callable[[Any], None]


def cut(scene: Scene) -> None:
    scene.proxy.cut()


def reset(scene: Scene) -> None:
    scene.proxy.reset()


def half_close_by_the_server(scene: Scene) -> None:
    scene.proxy.half_close("down")


def half_close_by_the_client(scene: Scene) -> None:
    scene.proxy.half_close("up")


def refuse(scene: Scene) -> None:
    scene.proxy.refuse()
    scene.proxy.reset()
    scene.outage(4, 14)
    scene.proxy.heal()


def blackhole(scene: Scene) -> None:
    scene.proxy.blackhole()
    scene.outage(4, 30)
    scene.proxy.heal()


def hold(scene: Scene) -> None:
    scene.proxy.hold()
    scene.outage(4, 30)
    scene.proxy.heal()


#: Those that need no more than a proxy.
OF_THE_PATH: list[Fault] = [
    cut,
    reset,
    half_close_by_the_server,
    half_close_by_the_client,
    refuse,
    blackhole,
    hold,
]


def name_of(fault: Fault) -> str:
    """How pytest calls it."""
    return fault.__name__


def longest_publish(publisher: Program, since: float) -> float:
    """How long a publish took at most, in seconds, whether it succeeded or not."""
    events = publisher.events("ok", "failed")
    return max(float(event.words[1]) for event in events if event.at >= since)


def longest_publish_beside(
    fault: Fault, scene: Scene, fleet: Fleet, report: Callable[..., None], limit: float, **more: Any
) -> float:
    """Seconds that a publish with a timeout of `limit` seconds took at most beside a fault."""
    publisher = fleet.start(
        "publish",
        url=scene.publisher.spec["url"],
        queues=["other"],
        timeout=limit,
        pause=0.02,
        high_water=0,
        **more,
    )
    publisher.wait_for("ok")
    begin = time.monotonic()
    fault(scene)
    again = time.monotonic()
    try:
        publisher.wait_for("ok", 60, since=again)
    except ServerFailed:
        report(longest_publish=f"more than {time.monotonic() - begin:.0f}")
        raise
    longest = longest_publish(publisher, begin)
    report(longest_publish=longest)
    return longest
