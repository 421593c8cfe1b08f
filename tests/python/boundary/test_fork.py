"""A process with live connections forks: it goes on, and so does the child, each on its own link.

The parent's threads keep the connection busy all the time, so that a child is made at any moment:
while locks are held, replies are under way, the keeper works.
"""

from __future__ import annotations

import signal

import pytest

from servers.redis import RedisServer

from .conftest import StartScript

#: What parent and children have in common. `Echo` publishes numbers into a queue of its own and
#: checks that each comes back: a reply that went to the wrong process or request shows.
FORKING = """
import faulthandler, itertools, traceback

way, count = sys.argv[2], int(sys.argv[3])
connection = Connection(url, connect_timeout=30)
parent = os.getpid()

class Echo:
    def __init__(self, channel, name):
        self.queue = Queue(name)(channel)
        self.queue.declare()
        self.producer = Producer(channel)
        self.numbers = itertools.count(1)
        self.done = 0

    def turn(self):
        number = next(self.numbers)
        self.producer.publish([self.queue.name, number], routing_key=self.queue.name)
        message = self.queue.get()
        assert message is not None, f"{self.queue.name}: {number} is lost"
        got = message.payload
        assert got == [self.queue.name, number], f"{self.queue.name}: {got} came for {number}"
        message.ack()
        self.done = number

# The claim of the parent that no child may give back.
held_queue = Queue("held")(connection.channel())
held_queue.declare()
Producer(held_queue.channel).publish("mine", routing_key="held")
held = held_queue.get()

stop = threading.Event()
failed = []

def loaded(function):
    def run():
        try:
            function()
        except BaseException:
            failed.append(traceback.format_exc())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread

def echo_on():
    echo = Echo(connection.channel(), f"load-{threading.get_ident()}")
    while not stop.is_set():
        echo.turn()

# A stream of numbers: published by one thread, drained by another.
published, received, all_sent = [], [], threading.Event()
Queue("stream")(connection.channel()).declare()

def publish_on():
    producer = Producer(connection.channel())
    while not stop.is_set():
        if len(published) - len(received) < 50:
            producer.publish(len(published), routing_key="stream")
            published.append(len(published))
        else:
            time.sleep(0.001)  # not too far ahead of the reader
    all_sent.set()

def drain_on():
    import socket
    def on_message(body, message):
        received.append(body)
        message.ack()
    with Consumer(connection.channel(), [Queue("stream")], callbacks=[on_message],
                  prefetch_count=10):
        while not all_sent.is_set() or len(received) < len(published):
            try:
                connection.drain_events(timeout=0.5)
            except socket.timeout:
                pass

threads = [loaded(f) for f in (echo_on, echo_on, drain_on, publish_on)]
echo = Echo(connection.channel(), "parent")
inherited = connection.channel()

def child():
    faulthandler.dump_traceback_later(60, exit=True)
    assert os.getpid() != parent
    # On a channel of the parent, then on one of its own; with threads of its own.
    name = f"child-{os.getpid()}"
    echoes = [Echo(inherited, name), Echo(connection.channel(), name + "-own")]
    errors = []
    def talk(echo):
        try:
            for _ in range(3):
                echo.turn()
        except BaseException as error:
            errors.append(error)
    talkers = [threading.Thread(target=talk, args=(echo,)) for echo in echoes]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()
    if errors:
        raise errors[0]
    for echo in echoes:
        assert echo.queue.queue_declare(passive=True).message_count == 0
        echo.queue.delete()
    faulthandler.cancel_dump_traceback_later()

def fork_and(leave):
    pid = os.fork()
    if pid:
        return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    leave()

def run_and_leave_at_once():
    code = 1
    try:
        child()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

def run_and_exit():
    child()
    sys.exit(0)     # with finalizers: modules, connections and channels of the parent are dropped

def process_of(library):
    process = library.get_context("fork").Process(target=child)
    process.start()
    def wait():
        process.join(120)
        return process.exitcode
    return wait

def start():
    if way == "_exit":
        return fork_and(run_and_leave_at_once)
    if way == "exit":
        return fork_and(run_and_exit)
    import importlib
    return process_of(importlib.import_module(way))

alive = []
for number in range(count):
    alive.append(start())
    echo.turn()
    if len(alive) == 3:
        code = alive.pop(0)()
        assert code == 0, f"a child ended with {code}"
for wait in alive:
    code = wait()
    assert code == 0, f"a child ended with {code}"
stop.set()
for thread in threads:
    thread.join(60)
    assert not thread.is_alive(), "a thread of the parent hangs"
assert not failed, failed[0]
assert sorted(received) == published, "lost or doubled: " + str(
    [number for number in published if received.count(number) != 1])
assert received == published, "out of order"
assert echo.done == count
# Nobody has given the claim back.
assert held_queue.get() is None
held.ack()
assert held_queue.queue_declare(passive=True).message_count == 0
connection.release()
say("forked", count, len(received))
"""


def stress(script_of: StartScript, url: str, way: str, count: int) -> None:
    """Fork `count` times under load."""
    if way == "billiard":
        pytest.importorskip("billiard", reason="billiard is not installed")
    script = script_of(FORKING, url, way, str(count))
    assert script.expect("forked", timeout=150).split()[0] == str(count)
    script.finish()


@pytest.mark.parametrize(
    ("way", "count"), [("_exit", 300), ("exit", 100), ("multiprocessing", 50), ("billiard", 50)]
)
def test_500_forks_on_redis(
    redis_server: RedisServer, start_script: StartScript, way: str, count: int
) -> None:
    before = connections(redis_server)
    stress(start_script, redis_server.url(), way, count)
    assert connections(redis_server) - before >= count, "a child did not make its own connection"
    assert redis_server.command("HLEN", "unacked") == 0


def connections(server: RedisServer) -> int:
    """How many connections the server has ever taken."""
    fields = dict(
        line.split(":", 1)
        for line in server.command("INFO", "stats").decode().splitlines()
        if ":" in line
    )
    return int(fields["total_connections_received"])


@pytest.mark.parametrize("way", ["_exit", "exit", "multiprocessing", "billiard"])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "rabbitmq"])
def test_forks_on(
    kind: str, way: str, start_script: StartScript, request: pytest.FixtureRequest
) -> None:
    url = "memory://" if kind == "memory" else request.getfixturevalue(f"{kind}_url")
    stress(start_script, url, way, 30)


def test_a_fork_while_another_thread_reads_its_first_message(start_script: StartScript) -> None:
    """What is found once is not half found in the child, whose thread that was at it is gone."""
    script = start_script(
        """
import faulthandler
from kombu_rs import serialization

parent, inside, go_on = os.getpid(), threading.Event(), threading.Event()

def load_entry_points():
    serialization.registry._entry_points_pending = False
    if os.getpid() == parent:
        inside.set()
        assert go_on.wait(30)

serialization.registry._entry_points_pending = True
serialization.registry._load_entry_points = load_entry_points

def echo(name):
    with Connection(url) as connection:
        queue = Queue(name)(connection.channel())
        queue.declare()
        Producer(queue.channel).publish(b'"x"', content_type="application/json",
                                        content_encoding="utf-8", routing_key=name)
        return queue.get().payload

read = []
thread = threading.Thread(target=lambda: read.append(echo("parent")), daemon=True)
thread.start()
assert inside.wait(30)
pid = os.fork()
if not pid:
    faulthandler.dump_traceback_later(20, exit=True)
    os._exit(0 if echo("child") == "x" else 1)
say("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
go_on.set()
thread.join(30)
assert read == ["x"], read
say("done")
""",
        "memory://",
    )
    assert script.expect("child", timeout=60) == "0"
    script.expect("done")
    script.finish()


def test_children_leave_an_event_loop_alone(shared_broker: str, start_script: StartScript) -> None:
    """A child that closes its copy of the connection, or merely ends, does not unhook the parent's
    descriptor from the parent's poller."""
    script = start_script(
        """
from kombu_rs.asynchronous.hub import Hub

hub = Hub()
connection = Connection(url)
got = []
consumer = Consumer(connection, [Queue("loop")], no_ack=True,
                    callbacks=[lambda body, message: got.append(body)])
consumer.consume()
connection.register_with_event_loop(hub)
descriptor = connection.connection.fileno()
producer = Producer(connection.channel())

def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, got
        next(hub.loop)

for number in range(30):
    pid = os.fork()
    if not pid:
        if number % 3 == 0:
            os._exit(0)
        if number % 3 == 1:
            connection.release()
        else:
            Producer(connection.channel()).publish(["child", number], routing_key="loop")
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    producer.publish(["parent", number], routing_key="loop")
    until(lambda: ["parent", number] in got)
    assert connection.connection.fileno() == descriptor
until(lambda: len(got) >= 40)
assert sorted(n for who, n in got if who == "child") == list(range(2, 30, 3)), got
assert [n for who, n in got if who == "parent"] == list(range(30)), got
connection.release()
hub.close()
say("done")
""",
        shared_broker,
    )
    script.expect("done", timeout=60)
    script.finish()


def test_a_fork_within_a_blocked_drain(broker: str, start_script: StartScript) -> None:
    """By a signal handler, on top of a call that sleeps; the parent sleeps on."""
    script = start_script(
        """
connection = Connection(url)
got = []
consumer = Consumer(connection, [Queue("within")], no_ack=True,
                    callbacks=[lambda body, message: got.append(body)])
consumer.consume()

def handler(number, frame):
    pid = os.fork()
    if not pid:
        # The child's own copy of everything works, on a link of its own.
        queue = Queue("child")(connection.channel())
        queue.declare()
        Producer(queue.channel).publish("x", routing_key="child")
        os._exit(0 if queue.get(no_ack=True).payload == "x" else 1)
    say("forked", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

signal.signal(signal.SIGUSR1, handler)
producer = Producer(connection.channel())
signal.signal(signal.SIGUSR2, lambda n, frame: producer.publish("end", routing_key="within"))
say("draining")
connection.drain_events(timeout=60)
assert got == ["end"]
connection.release()
say("done")
""",
        broker,
    )
    script.expect("draining")
    for _ in range(3):
        script.wait_asleep()
        script.send(signal.SIGUSR1)
        assert script.expect("forked") == "0"
    script.wait_asleep()
    script.send(signal.SIGUSR2)
    script.expect("done")
    script.finish()


def test_a_child_that_returns_into_a_blocked_drain(broker: str, start_script: StartScript) -> None:
    """The call is the parent's: the child gets an error that says so, at once, and can go on."""
    script = start_script(
        """
import socket

connection = Connection(url)
consumer = Consumer(connection, [Queue("return")], no_ack=True,
                    callbacks=[lambda body, message: say("got", body)])
consumer.consume()
parent = os.getpid()

def handler(number, frame):
    pid = os.fork()
    if pid:
        say("forked", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

signal.signal(signal.SIGUSR1, handler)
signal.signal(signal.SIGUSR2, lambda n, frame:
              Producer(connection.channel()).publish("end", routing_key="return"))
say("draining")
try:
    connection.drain_events(timeout=60)
except connection.connection_errors as error:
    assert os.getpid() != parent
    assert "forked" in str(error), error
    queue = Queue("child")(connection.channel())
    queue.declare()
    Producer(queue.channel).publish("x", routing_key="child")
    os._exit(0 if queue.get(no_ack=True).payload == "x" else 1)
assert os.getpid() == parent
connection.release()
say("done")
""",
        broker,
    )
    script.expect("draining")
    script.wait_asleep()
    script.send(signal.SIGUSR1)
    assert script.expect("forked") == "0"
    script.wait_asleep()
    script.send(signal.SIGUSR2)
    script.expect("got")
    script.expect("done")
    script.finish()
