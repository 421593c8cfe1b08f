"""Liveness does not depend on Python: it goes on while a callback keeps the interpreter's lock."""

from __future__ import annotations

import time

from kombu_rs import Connection, Queue
from servers.process import wait_until
from servers.redis import RedisServer

from .conftest import StartScript

#: Seconds after which a claim that is not renewed may be taken by somebody else.
VISIBILITY = 3


def lease(server: RedisServer) -> float:
    """When the only claim was made or renewed last."""
    (_, score) = server.command("ZRANGE", "unacked_index", 0, -1, "WITHSCORES")
    return float(score)


def test_leases_are_renewed_under_a_busy_callback(
    redis_server: RedisServer, start_script: StartScript
) -> None:
    script = start_script(
        """
import ctypes

class PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]

def on_message(body, message):
    say("busy")
    # A foreign function that keeps the interpreter's lock until there is a line on stdin.
    ctypes.PyDLL(None).poll(ctypes.byref(PollFd(0, 1, 0)), 1, -1)
    message.ack()
    say("acked")

connection = Connection(url, transport_options={"visibility_timeout": 3})
consumer = Consumer(connection, [Queue("busy")], callbacks=[on_message])
consumer.consume()
Producer(connection.channel()).publish("work", routing_key="busy")
connection.drain_events(timeout=20)
connection.release()
say("done")
""",
        redis_server.url(),
    )
    script.expect("busy")
    script.wait_asleep()
    claimed = lease(redis_server)
    options = {"visibility_timeout": VISIBILITY, "unacked_restore_limit": 100}
    with Connection(redis_server.url(), transport_options=options) as other:
        # Another worker, which looks for claims of the dead.
        queue = Queue("busy")(other.default_channel)
        deadline = claimed + 2 * VISIBILITY
        renewals = {claimed}
        while time.time() < deadline:
            assert queue.get() is None, "delivered a second time"
            renewals.add(lease(redis_server))
            time.sleep(0.05)
        assert len(renewals) > 2
        assert max(renewals) > claimed + VISIBILITY / 3
        script.tell("go on")
        script.expect("acked")
        script.expect("done")
        script.finish()
        wait_until(lambda: not redis_server.command("HLEN", "unacked"), 10, "the ack to arrive")
        assert queue.get() is None
