"""Under gevent other greenlets run while one waits, and many share one connection."""

from __future__ import annotations

import pytest

from .conftest import StartScript

PATCH = """
from gevent import monkey
monkey.patch_all()
"""

COMMON = """
import socket
import gevent
from gevent.event import Event

connection = Connection(url, connect_timeout=20)

def finish(greenlets, timeout=60):
    done = gevent.joinall(greenlets, timeout=timeout, raise_error=True)
    assert len(done) == len(greenlets), [g for g in greenlets if not g.ready()]
"""


@pytest.fixture
def start_greenlets(start_script: StartScript) -> StartScript:
    """Starts a script in a process that gevent has patched."""
    pytest.importorskip("gevent", reason="gevent is not installed")

    def start(source: str, *arguments: str):
        # Patched before anything else is imported, as gevent asks.
        return start_script(COMMON + source, *arguments, before=PATCH)

    return start


def test_others_tick_while_one_drains(broker: str, start_greenlets: StartScript) -> None:
    script = start_greenlets(
        """
ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        if ticks == 50:
            Producer(connection.channel()).publish("after 50 ticks", routing_key="greenlets")
        gevent.sleep(0.001)

got = []
channel = connection.channel()
consumer = Consumer(channel, [Queue("greenlets")], no_ack=True,
                    callbacks=[lambda body, message: got.append((body, ticks))])
consumer.consume()
ticker = gevent.spawn(tick)
connection.drain_events(timeout=60)
assert got[0][0] == "after 50 ticks" and got[0][1] >= 50, got
ticker.kill()
connection.release()
say("ticked")
""",
        broker,
    )
    script.expect("ticked")
    script.finish()


def test_a_timeout_ends_a_drain(broker: str, start_greenlets: StartScript) -> None:
    script = start_greenlets(
        """
channel = connection.channel()
queue = Queue("greenlets-timeout")
got = []
consumer = Consumer(channel, [queue], no_ack=True, callbacks=[lambda body, m: got.append(body)])
consumer.consume()
for _ in range(3):
    try:
        with gevent.Timeout(0.1):
            connection.drain_events(timeout=60)
    except gevent.Timeout:
        say("ended")
    try:
        connection.drain_events(timeout=0.1)
    except socket.timeout:
        say("ended")
drainer = gevent.spawn(connection.drain_events, timeout=60)
gevent.sleep(0.01)
drainer.kill()
Producer(channel).publish("x", routing_key="greenlets-timeout")
connection.drain_events(timeout=20)
assert got == ["x"]
connection.release()
say("done")
""",
        broker,
    )
    for _ in range(6):
        script.expect("ended")
    script.expect("done")
    script.finish()


def test_many_publish_and_some_drain(broker: str, start_greenlets: StartScript) -> None:
    script = start_greenlets(
        """
got = []
done = Event()

def on_message(body, message):
    message.ack()
    got.append(tuple(body))
    if len(got) >= 50 * 10:
        done.set()

def publish(name):
    producer = Producer(connection.channel() if name % 2 else shared)
    for number in range(10):
        producer.publish([name, number], routing_key="greenlets-many")

def drain():
    while not done.is_set():
        try:
            connection.drain_events(timeout=0.5)
        except socket.timeout:
            pass

shared = connection.channel()
consumer = Consumer(connection.channel(), [Queue("greenlets-many")], callbacks=[on_message],
                    prefetch_count=20)
consumer.consume()
finish([gevent.spawn(publish, name) for name in range(50)]
       + [gevent.spawn(drain) for _ in range(5)])
assert sorted(got) == [(name, number) for name in range(50) for number in range(10)], len(got)
connection.release()
say("done")
""",
        broker,
    )
    script.expect("done", timeout=60)
    script.finish()


def test_each_gets_its_own_replies(broker: str, start_greenlets: StartScript) -> None:
    script = start_greenlets(
        """
def talk(name):
    channel = connection.channel()
    queue = Queue(f"greenlets-{name}")(channel)
    queue.declare()
    producer = Producer(channel)
    for number in range(5):
        producer.publish([name, number], routing_key=queue.name)
        gevent.sleep(0)
        message = queue.get()
        assert message.payload == [name, number], (name, number, message.payload)
        message.ack()
    assert queue.queue_declare(passive=True).message_count == 0

finish([gevent.spawn(talk, name) for name in range(50)])
connection.release()
say("done")
""",
        broker,
    )
    script.expect("done", timeout=60)
    script.finish()


def test_a_fork_while_one_drains(broker: str, start_greenlets: StartScript) -> None:
    """The child has a copy of the greenlet that waits: it never takes a message there, and is told
    why if it wakes; in the parent it goes on."""
    script = start_greenlets(
        """
got, ended = [], []
consumer = Consumer(connection, [Queue("greenlets-fork")], no_ack=True,
                    callbacks=[lambda body, message: got.append(body)])
consumer.consume()

def drain():
    try:
        connection.drain_events(timeout=60)
    except connection.connection_errors as error:
        ended.append(str(error))

drainer = gevent.spawn(drain)
gevent.sleep(0.05)
for _ in range(5):
    pid = os.fork()
    if not pid:
        queue = Queue("greenlets-child")(connection.channel())
        queue.declare()
        Producer(queue.channel).publish("x", routing_key=queue.name)
        good = queue.get(no_ack=True).payload == "x"
        gevent.sleep(0)
        os._exit(0 if good and not got and all("forked" in text for text in ended) else 1)
    say("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert not drainer.ready()
Producer(connection.channel()).publish("end", routing_key="greenlets-fork")
drainer.join(20)
assert got == ["end"] and not ended, (got, ended)
connection.release()
say("done")
""",
        broker,
    )
    for _ in range(5):
        assert script.expect("child") == "0"
    script.expect("done")
    script.finish()
