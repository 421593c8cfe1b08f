"""Signal handlers run at once while a call waits, and may end it; the connection stays usable."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from .conftest import StartScript

#: A handler that waits for its turn until the call ends would come after 60 seconds.
AT_ONCE = 10.0

CONSUMING = """
connection = Connection(url, connect_timeout=20)
channel = connection.channel()
queue = Queue("signals")(channel)
queue.declare()
producer = Producer(channel)
got = []

def on_message(body, message):
    got.append(body)
    message.ack()

consumer = Consumer(channel, [queue], callbacks=[on_message])
consumer.consume()

def check_usable():
    producer.publish("still here", routing_key="signals")
    while not got:
        connection.drain_events(timeout=20)
    assert got == ["still here"], got
    assert queue.queue_declare(passive=True).message_count == 0
    connection.release()
    say("usable")
"""


def test_ctrl_c_ends_a_drain(broker: str, start_script: StartScript) -> None:
    script = start_script(
        CONSUMING
        + """
for _ in range(3):
    say("draining")
    try:
        connection.drain_events(timeout=60)
    except KeyboardInterrupt:
        say("interrupted")
check_usable()
""",
        broker,
    )
    for _ in range(3):
        script.expect("draining")
        script.wait_asleep()
        script.send(signal.SIGINT)
        script.expect("interrupted", timeout=AT_ONCE)
    script.expect("usable")
    script.finish()


def test_ctrl_c_ends_a_drain_without_timeout(broker: str, start_script: StartScript) -> None:
    script = start_script(CONSUMING + 'say("draining")\nconnection.drain_events()\n', broker)
    script.expect("draining")
    script.wait_asleep()
    script.send(signal.SIGINT)
    assert script.wait(AT_ONCE) == -signal.SIGINT
    assert script.errors().endswith("KeyboardInterrupt\n")


def test_an_alarm_is_handled_within_a_drain(broker: str, start_script: StartScript) -> None:
    """The handler uses the very connection that waits, and so ends the wait."""
    script = start_script(
        CONSUMING
        + """
def handler(number, frame):
    say("handled", number)
    producer.publish("from the handler", routing_key="signals")

signal.signal(signal.SIGALRM, handler)
say("draining")
connection.drain_events(timeout=60)
assert got == ["from the handler"], got
got.clear()
check_usable()
""",
        broker,
    )
    script.expect("draining")
    script.wait_asleep()
    script.send(signal.SIGALRM)
    script.expect("handled", timeout=AT_ONCE)
    script.expect("usable")
    script.finish()


def test_an_alarm_raises_out_of_a_drain(broker: str, start_script: StartScript) -> None:
    script = start_script(
        CONSUMING
        + """
class SoftTimeLimit(Exception):
    pass

def handler(number, frame):
    raise SoftTimeLimit("too slow")

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)
say("draining")
try:
    connection.drain_events(timeout=60)
except SoftTimeLimit as error:
    say("raised", error)
check_usable()
""",
        broker,
    )
    script.expect("draining")
    assert script.expect("raised", timeout=AT_ONCE) == "too slow"
    script.expect("usable")
    script.finish()


def test_signals_do_not_prolong_a_timeout(broker: str, start_script: StartScript) -> None:
    script = start_script(
        CONSUMING
        + """
import socket

handled = []
signal.signal(signal.SIGALRM, lambda number, frame: handled.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
start = time.monotonic()
try:
    connection.drain_events(timeout=0.5)
except socket.timeout:
    pass
else:
    raise AssertionError("no timeout")
elapsed = time.monotonic() - start
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(handled) > 2, handled
say("elapsed", elapsed)
check_usable()
""",
        broker,
    )
    assert 0.5 <= float(script.expect("elapsed")) < 5
    script.expect("usable")
    script.finish()


def test_ctrl_c_ends_the_wait_for_a_reply(
    redis_server, new_proxy, start_script: StartScript
) -> None:
    """The reply that nobody waits for any more is not taken for a later one."""
    proxy = new_proxy(redis_server.port)
    script = start_script(
        CONSUMING
        + """
consumer.cancel()
say("ready", )
sys.stdin.readline()
say("publishing")
try:
    producer.publish("interrupted", routing_key="signals")
except KeyboardInterrupt:
    say("interrupted")
sys.stdin.readline()
for number in range(20):
    producer.publish(number, routing_key="signals-after")
    assert queue.queue_declare(passive=True).message_count == 1
    message = Queue("signals-after")(channel).get(no_ack=True)
    assert message.payload == number, (number, message.payload)
queue.purge()
consumer.consume()
check_usable()
""",
        f"redis://127.0.0.1:{proxy.port}/0",
    )
    script.expect("ready")
    proxy.hold("down")
    script.tell("go")
    script.expect("publishing")
    script.wait_asleep()
    start = time.monotonic()
    script.send(signal.SIGINT)
    script.expect("interrupted", timeout=AT_ONCE)
    assert time.monotonic() - start < AT_ONCE
    proxy.heal()
    script.tell("go")
    script.expect("usable")
    script.finish()


def test_a_handler_may_close_what_it_interrupts(
    redis_server, new_proxy, start_script: StartScript
) -> None:
    """Also while a reply is under way that only the interrupted call could take."""
    proxy = new_proxy(redis_server.port)
    script = start_script(
        CONSUMING
        + """
def handler(number, frame):
    consumer.cancel()
    connection.release()
    say("released")

signal.signal(signal.SIGTERM, handler)
say("ready")
sys.stdin.readline()
try:
    connection.drain_events(timeout=60)
except connection.connection_errors as error:
    say("ended")
""",
        f"redis://127.0.0.1:{proxy.port}/0",
    )
    script.expect("ready")
    proxy.hold("down")
    script.tell("go")
    script.wait_asleep()
    script.send(signal.SIGTERM)
    script.expect("released", timeout=AT_ONCE)
    script.expect("ended", timeout=AT_ONCE)
    script.finish()


def test_handlers_run_before_a_locked_file(tmp_path: Path, start_script: StartScript) -> None:
    """A call that sleeps again and again hears of signals that come while it is awake."""
    script = start_script(
        """
import signal, sqlite3, time
connection = Connection(url, transport_options={"busy_timeout": 0.4})
queue = connection.SimpleQueue("q")
queue.put(1)
other = sqlite3.connect(url.partition(":///")[2], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
seen, late = [], 0
signal.signal(signal.SIGALRM, lambda *_: seen.append(time.monotonic()))
for number in range(40):
    seen.clear()
    start, delay = time.monotonic(), 0.01 + number * 0.002
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        queue.put(2)
    except connection.connection_errors:
        pass
    end = time.monotonic()
    assert seen, "not even after the call"
    late += seen[0] > end - 0.1
assert not late, late
say("heard")
""",
        f"sqla+sqlite:///{tmp_path}/broker.sqlite",
    )
    script.expect("heard", timeout=60)
    script.finish()
