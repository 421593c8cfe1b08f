"""What becomes of the native AMQP transport's promises when the node, a link or a program fails.

On a node of their own, as they stop it, fill its memory or have it close channels.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import amqp
import pytest

from kombu_rs import Connection, Queue, exceptions
from servers import reaper
from servers.process import wait_until
from servers.proxy import FaultProxy
from servers.rabbitmq import RabbitMQServer

CONFIRMED = {"confirm_publish": True}


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQServer]:
    """A node that the tests of this module may disturb; it refuses messages above 64 KiB."""
    with RabbitMQServer(config={"max_message_size": "65536"}) as server:
        yield server


@pytest.fixture
def url(node: RabbitMQServer) -> Iterator[str]:
    """An empty virtual host of it."""
    with node.vhost() as name:
        yield node.url(name)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program: ``start(source, *arguments)``. It is killed after the test."""
    with ExitStack() as stack:

        def begin(source: str, *arguments: str) -> subprocess.Popen[str]:
            path = tmp_path / "program.py"
            path.write_text(textwrap.dedent(source))
            program = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, path, *arguments],
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
            reaper.adopt_session(program.pid)
            stack.callback(reaper.release_session, program.pid)
            stack.callback(program.kill)
            return program

        yield begin


def drain_into(
    connection: Connection, queue: Queue, enough: Callable[[list[Any]], bool]
) -> list[Any]:
    """The bodies that come from a queue, each acknowledged, until there are enough."""
    got: list[Any] = []

    def handle(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with connection.Consumer([queue], callbacks=[handle]):
        deadline = time.monotonic() + 30
        while not enough(got):
            assert time.monotonic() < deadline, f"only {len(got)} came"
            with suppress(TimeoutError):
                connection.drain_events(timeout=1)
    return got


PUBLISHER = """
    import sys
    from kombu_rs import Connection, Queue
    with Connection(sys.argv[1], transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer()
        queue = Queue("kept", routing_key="kept")
        for number in range(10**6):
            producer.publish(number, routing_key="kept", declare=[queue])
            print(number, flush=True)
"""


def test_what_was_confirmed_to_a_killed_publisher_is_there(url: str, start: Start) -> None:
    program = start(PUBLISHER, url)
    assert program.stdout is not None
    for _ in range(200):
        last = int(program.stdout.readline())
    os.kill(program.pid, signal.SIGKILL)
    last = max([last, *(int(line) for line in program.stdout.read().split())])
    with Connection(url) as connection:
        queue = Queue("kept", routing_key="kept")
        got = drain_into(connection, queue, lambda got: bool(got) and got[-1] >= last)
    assert got[: last + 1] == list(range(last + 1))


CONSUMER = """
    import sys
    from kombu_rs import Connection, Queue
    def handle(body, message):
        print(body, flush=True)  # before it is acknowledged: a kill in between shows it twice
        message.ack()
    with Connection(sys.argv[1]) as connection:
        with connection.Consumer([Queue("shared", routing_key="shared")], callbacks=[handle],
                                 prefetch_count=10):
            while True:
                connection.drain_events()
"""


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_killed_consumers_lose_nothing(url: str, start: Start, kind: str) -> None:
    queue = Queue("shared", routing_key="shared", queue_arguments={"x-queue-type": kind})
    consumer = CONSUMER.replace(
        'key="shared")', f'key="shared", queue_arguments={{"x-queue-type": "{kind}"}})'
    )
    seen: set[int] = set()
    with Connection(url, transport_options=CONFIRMED) as connection:
        producer = connection.Producer()
        queue(connection.default_channel).declare()
        with producer.batch():
            for number in range(600):
                producer.publish(number, routing_key="shared")
        for _ in range(3):
            program = start(consumer, url)
            assert program.stdout is not None
            for _ in range(50):
                seen.add(int(program.stdout.readline()))
            os.kill(program.pid, signal.SIGKILL)
            seen.update(int(line) for line in program.stdout.read().split("\n")[:-1])
        drain_into(connection, queue, lambda got: seen.union(got) >= set(range(600)))


def test_a_node_that_restarts(node: RabbitMQServer, url: str) -> None:
    queue = Queue("durable", routing_key="durable")
    with Connection(url, transport_options=CONFIRMED) as connection:
        producer = connection.Producer()
        producer.publish("before", routing_key="durable", declare=[queue])
        node.stop()
        with pytest.raises(connection.connection_errors):
            connection.drain_events(timeout=10)
        policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
        with pytest.raises(exceptions.OperationalError):
            producer.publish("lost", routing_key="durable", retry=True, retry_policy=policy)
        node.start()
        producer.publish("after", routing_key="durable", retry=True)
        assert drain_into(connection, queue, lambda got: "after" in got) == ["before", "after"]


@pytest.mark.parametrize("alternates", ["", ";amqp://127.0.0.1:1"])
def test_a_wait_for_a_node_ends_when_it_is_there(
    node: RabbitMQServer, new_proxy: Callable[[int], FaultProxy], alternates: str
) -> None:
    """However long the pause between two tries is."""
    proxy = new_proxy(node.port)
    proxy.refuse()
    tried: list[float] = []

    def refused(error: Exception, interval: float) -> None:
        tried.append(interval)
        if interval:
            proxy.accept()

    with Connection(f"amqp://127.0.0.1:{proxy.port}{alternates}") as connection:
        connection.ensure_connection(refused, interval_start=600, interval_max=600, timeout=600)
        assert connection.connected
        assert tried[-1] == 600
        connection.default_channel.queue_declare("there", exclusive=True)


@pytest.mark.parametrize("retry", [False, True])
def test_the_timeout_of_a_publish_bounds_connecting(
    node: RabbitMQServer, new_proxy: Callable[[int], FaultProxy], retry: bool
) -> None:
    """Whatever the timeout of connecting is."""
    proxy = new_proxy(node.port)
    proxy.hold("down")
    url = f"amqp://127.0.0.1:{proxy.port}"
    with Connection(url, connect_timeout=600) as connection:
        producer = connection.Producer(auto_declare=False)
        with pytest.raises((exceptions.OperationalError, *connection.connection_errors)):
            producer.publish("x", routing_key="nobody", retry=retry, timeout=0.2)
        proxy.heal()
        producer.publish("x", routing_key="nobody", retry=True, timeout=30)


def test_all_connections_closed_by_the_operator(node: RabbitMQServer, url: str) -> None:
    """Who consumes is told, also when the loss was noticed while nobody waited for messages."""
    queue, idle = (Queue(name, routing_key=name) for name in ("work", "idle"))
    with Connection(url, transport_options=CONFIRMED) as connection:
        producer = connection.Producer()
        for number in range(2):
            producer.publish(number, routing_key="work", declare=[queue], retry=True)
            connection.Consumer([idle], callbacks=[print]).consume()
            link = connection.connect()
            node.ctl("close_all_connections", "--global", "the tests say so")
            wait_until(lambda link=link: not link.connected, 10, "the loss to be noticed")
            assert connection.connected
            with pytest.raises(exceptions.ConnectionForced, match="the tests say so"):
                connection.drain_events(timeout=10)
            assert not connection.connected
        assert drain_into(connection, queue, lambda got: len(got) == 2) == [0, 1]


def test_a_node_without_memory_blocks_publishers(node: RabbitMQServer, url: str) -> None:
    """A publish fails in time and says why; consumers go on; the program is told of both turns."""
    told: list[str | None] = []
    options = CONFIRMED | {
        "on_blocked": told.append,
        "on_unblocked": lambda: told.append(None),
    }
    queue = Queue("work", routing_key="work")
    # The node reads nothing of a connection that it blocks; consumers have one of their own.
    with Connection(url, transport_options=options) as connection, Connection(url) as consuming:
        producer = connection.Producer()
        producer.publish("before", routing_key="work", declare=[queue])
        consuming.connect()
        node.ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            # The first one after the alarm makes the node tell.
            with pytest.raises(TimeoutError):
                producer.publish("during", routing_key="work", timeout=2)
            with pytest.raises(TimeoutError, match="takes no publishes: low on memory"):
                producer.publish("refused", routing_key="work", timeout=0.5)
            drain_into(consuming, queue, lambda got: "before" in got)
            connection.drain_events(timeout=10)
            assert told == ["low on memory"]
        finally:
            node.ctl("set_vm_memory_high_watermark", "0.4")
        producer.publish("after", routing_key="work", timeout=30)
        drain_into(consuming, queue, lambda got: "after" in got)
        connection.drain_events(timeout=10)
        assert told == ["low on memory", None]


def test_a_callback_that_keeps_the_interpreter_does_not_lose_the_link(url: str) -> None:
    """For ten heartbeats: the node would have closed the connection after two."""
    sleep = ctypes.PyDLL(None).usleep  # holds the interpreter's lock
    got: list[Any] = []

    def handle(body: Any, message: Any) -> None:
        sleep(10_000_000)
        message.ack()
        got.append(body)

    with Connection(url, heartbeat=1, transport_options=CONFIRMED) as connection:
        producer = connection.Producer()
        queue = Queue("slow", routing_key="slow")
        link = connection.connect()
        producer.publish("x", routing_key="slow", declare=[queue])
        with connection.Consumer([queue], callbacks=[handle]):
            connection.drain_events(timeout=10)
        assert (got, link.heartbeat) == (["x"], 1)
        producer.publish("still there", routing_key="slow")
        assert connection.connection is link


@pytest.fixture
def impatient(node: RabbitMQServer) -> Iterator[None]:
    """Has the node give consumers a second for each message, and look every 200 ms."""
    given = {"channel_tick_interval": 200, "consumer_timeout": 1000}
    usual = {"channel_tick_interval": 60_000, "consumer_timeout": 1_800_000}
    node.set_internal(**given)
    yield
    node.set_internal(**usual)


@pytest.mark.usefixtures("impatient")
def test_a_consumer_that_takes_too_long(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The node closes its channel; that is said, with the reason, and the channel serves on.

    A warning comes before that, also while Python is busy, and other channels are not concerned.
    """
    sleep = ctypes.PyDLL(None).usleep  # holds the interpreter's lock
    queue = Queue("work", routing_key="work")
    with Connection(url, transport_options={"consumer_timeout": 1}) as connection:
        channel, other = connection.channel(), connection.channel()
        got: list[Any] = []
        connection.Producer().publish("x", routing_key="work", declare=[queue])
        consumer = connection.Consumer([queue], on_message=got.append, channel=channel)
        consumer.consume()
        connection.drain_events(timeout=10)
        sleep(1_000_000)
        connection.channel().close()  # whoever enters the core takes its log along
        late = "delivery tag 1 of the queue 'work' is not acknowledged for 1 s"
        assert [record.name for record in caplog.records if late in record.getMessage()] == [
            "kombu.channel"
        ]
        with pytest.raises(
            exceptions.ConsumerTimeout,
            match=r"delivery acknowledgement.*\(delivery tag 1 of the queue 'work'\)",
        ) as raised:
            connection.drain_events(timeout=60)
        assert isinstance(raised.value, amqp.PreconditionFailed)
        assert isinstance(raised.value, amqp.ConsumerCancelled)
        assert isinstance(raised.value, connection.recoverable_connection_errors)
        assert other.queue_declare("work", passive=True).queue == "work"
        got[0].ack()  # dropped: the node has it back
        got[0].channel.basic_reject(1, requeue=True)
        dropped = [r for r in caplog.records if "are dropped" in r.getMessage()]
        assert [(r.name, r.levelname) for r in dropped] == [("kombu.channel", "WARNING")]
        consumer.consume()
        assert (
            wait_until(lambda: queue(channel).get(), 10, "the message to come again").payload == "x"
        )


def test_a_message_that_is_too_large(url: str) -> None:
    """Its publish fails and names it, with the node's code and words; the channel serves on."""
    with Connection(url, transport_options=CONFIRMED) as connection:
        producer = connection.Producer()
        producer.channel.queue_declare("work")
        with pytest.raises(exceptions.PreconditionFailed, match="larger than") as raised:
            producer.publish("x" * 70_000, routing_key="work", message_id="m1")
        assert raised.value.reply_code == 406
        (note,) = raised.value.__notes__
        assert "message 0 of the publish to the queue 'work', message_id \"m1\"" in note
        producer.publish("small", routing_key="work")
    with Connection(url) as connection:  # without confirms, who waits for events hears of it
        channel = connection.channel()
        message = channel.prepare_message("x" * 70_000)
        channel.basic_publish(message, routing_key="work")
        with pytest.raises(exceptions.PreconditionFailed, match="larger than"):
            connection.drain_events(timeout=10)


def test_late_acknowledgements(
    node: RabbitMQServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of what a lost link delivered do nothing, but for one line in the log."""
    queue = Queue("work", routing_key="work")
    with Connection(url, transport_options=CONFIRMED) as connection:
        producer = connection.Producer()
        for number in range(4):
            producer.publish(number, routing_key="work", declare=[queue])
        old: list[Any] = []
        link = connection.connect()
        with connection.Consumer([queue], on_message=old.append, channel=connection.channel()):
            while len(old) < 4:
                connection.drain_events(timeout=10)
            node.ctl("close_all_connections", "--global", "the tests say so")
            with pytest.raises(exceptions.ConnectionForced):
                connection.drain_events(timeout=10)
        new: list[Any] = []
        with connection.Consumer([queue], on_message=new.append):
            while len(new) < 4:
                connection.drain_events(timeout=10)
            assert connection.connection is not link
            old[0].ack()
            old[1].reject()
            old[2].requeue()
            old[3].channel.basic_ack(old[3].delivery_tag, multiple=True)
            assert all(message.delivery_info["redelivered"] for message in new)
            for message in new:
                message.ack()
        assert queue(connection.default_channel).get() is None
    dropped = [r for r in caplog.records if "are dropped" in r.getMessage()]
    assert [(r.name, r.levelname) for r in dropped] == [("kombu.channel", "WARNING")]


def test_threads_share_channels_and_lose_nothing(url: str) -> None:
    """Four publish with confirms over one channel, each waits for its own; one link for all."""
    queue = Queue("threads", routing_key="threads")
    with Connection(url, transport_options=CONFIRMED) as connection:
        channel = connection.channel()
        queue(channel).declare()
        failed: list[BaseException] = []

        def publish(name: int) -> None:
            try:
                producer = connection.Producer(channel)
                for number in range(100):
                    producer.publish([name, number], routing_key="threads")
                    with pytest.raises(exceptions.ChannelError, match="NO_ROUTE"):
                        producer.publish(name, routing_key=f"nobody-{name}", mandatory=True)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failed
        got = drain_into(connection, queue, lambda got: len(got) == 400)
    for name in range(4):
        assert [number for who, number in got if who == name] == list(range(100))
