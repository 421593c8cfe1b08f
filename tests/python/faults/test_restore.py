"""What a dead worker had claimed comes back soon, once each, and its peers go on meanwhile."""

from __future__ import annotations

import time

from servers.process import wait_until
from servers.redis import RedisServer

from .conftest import Report
from .fleet import Fleet, Keys, Program

CLAIMS = 10_000
VISIBILITY = 4
#: Seconds for the whole of it, on a busy machine. Figures of a quiet one are in the documentation.
DEADLINE = 60


def rate(peer: Program, since: float, until: float) -> float:
    """Messages a second that a peer has sent through itself."""
    done = [event for event in peer.events("sent") if since <= event.at <= until]
    return len(done) * peer.spec["per_line"] / (until - since)


def test_ten_thousand_claims(redis_server: RedisServer, fleet: Fleet, report: Report) -> None:
    """The claims of a dead worker are back within seconds, once each, while four peers work."""
    url, options = redis_server.url(), {"visibility_timeout": VISIBILITY}
    fleet.start("publish", url=url, queues=["left"], count=CLAIMS, high_water=0).wait_for("end", 60)
    dead = fleet.start(
        "consume", url=url, queues=["left"], options=options, prefetch=0, ack="never"
    )
    keys = Keys(redis_server, ["left"])
    wait_until(lambda: keys.claims()[1] == CLAIMS, 60, lambda: f"the claims: {keys.claims()}")
    peers = [
        fleet.start("peer", url=url, queues=[f"peer-{n}"], options=options, per_line=20)
        for n in range(4)
    ]
    for peer in peers:
        peer.wait_for("sent")
    begin = time.monotonic()
    dead.kill()
    try:
        wait_until(keys.waiting, VISIBILITY + DEADLINE, "the first claim to come back", 0.005)
        first = time.monotonic()
        report(first_after=first - begin)
        wait_until(lambda: keys.waiting() >= CLAIMS, DEADLINE, lambda: f"{keys.waiting()} are back")
        last = time.monotonic()
        report(restoring_took=last - first)
    finally:
        report(claims=CLAIMS, back=keys.waiting())
    for peer in peers:
        peer.wait_for("sent", since=last + VISIBILITY / 2)
    fleet.end("peer")
    numbers = keys.numbers()
    report(
        peers_before=sum(rate(peer, begin, begin + VISIBILITY / 2) for peer in peers),
        peers_meanwhile=sum(rate(peer, first, max(last, first + 0.25)) for peer in peers),
        peers_after=sum(rate(peer, last, last + VISIBILITY / 2) for peer in peers),
        twice=sum(1 for count in numbers.values() if count > 1),
    )
    assert len(numbers) == numbers.total() == CLAIMS
    assert keys.claims() == (0, 0)
