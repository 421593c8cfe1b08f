"""All kinds of Redis servers: other versions, and those that refuse what ours builds on."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kombu_rs import Connection, Consumer, Exchange, Queue
from kombu_rs.exceptions import ChannelError
from servers.builds import BUILDS, SYSTEM
from servers.process import wait_until
from servers.redis import RedisServer
from servers.refusals import REFUSALS, SCRIPTS, refusing

OTHERS = [build for build in BUILDS if build != SYSTEM]
#: What the warning has to say, by what is refused.
POLLING, SECOND_LINK, ONE_BY_ONE = (
    "look for messages every 0.25 s",
    "second connection",
    "may lose it",
)
LOST: dict[str, set[str]] = {
    "no-tracking": {POLLING},
    "no-client": {POLLING},
    "no-resp3": {POLLING, SECOND_LINK},
    "no-load": set(),
    "no-scripts": {ONE_BY_ONE},
    "no-eval": {ONE_BY_ONE},
    "bare": {POLLING, SECOND_LINK, ONE_BY_ONE},
}
Start = Callable[[str], RedisServer]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """A server by the name of its build, or of what it refuses; each is started once."""
    started: dict[str, RedisServer] = {}
    with ExitStack() as stack:

        def server(name: str) -> RedisServer:
            if name not in started:
                made = refusing(name) if name in REFUSALS else RedisServer(build=name)
                started[name] = stack.enter_context(made)
            started[name].command("FLUSHALL")
            return started[name]

        yield server


def claims(server: RedisServer) -> int:
    """How many messages are claimed."""
    records, index = server.command("HLEN", "unacked"), server.command("ZCARD", "unacked_index")
    assert records == index
    return int(records)


class Received:
    """A consumer that keeps what it gets."""

    def __init__(self, connection: Connection, *queues: Queue) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        channel = connection.channel()
        self.consumer = Consumer(channel, queues, on_message=self.messages.append)
        self.consumer.qos(prefetch_count=3)
        self.consumer.consume()

    def wait(self, count: int) -> list[Any]:
        """The bodies of the next messages, which are acknowledged."""
        bodies: list[Any] = []
        while len(bodies) < count:
            if not self.messages:
                self.connection.drain_events(timeout=20)
                continue
            message = self.messages.pop(0)
            message.ack()
            bodies.append(message.payload)
        return bodies


def exercise(server: RedisServer) -> None:
    """Publishes and consumes in every way, and takes back what was claimed."""
    url = server.url()
    topic = Queue("fruit", Exchange("market", "topic"), routing_key="fruit.*")
    news = Queue("news", Exchange("all", "fanout"))
    with Connection(url) as here, Connection(url) as there:
        plain = Queue("plain")(here.channel())
        producer = there.Producer()
        # One after the other, the more urgent ones first, once more when rejected.
        for n, priority in enumerate([0, 0, 9, 0]):
            producer.publish({"n": n}, routing_key="plain", priority=priority, declare=[plain])
        first = plain.get()
        assert first.payload == {"n": 0}
        assert claims(server) == 1
        first.reject(requeue=True)
        received = Received(here, plain)
        assert [body["n"] for body in received.wait(4)] == [1, 3, 0, 2]
        wait_until(lambda: claims(server) == 0, what="the end of all claims")
        received.consumer.cancel()

        # Routes, also one that is made and removed while messages come; and all who listen.
        def publish(body: str, key: str) -> None:
            producer.publish(
                body, exchange=topic.exchange, routing_key=key, declare=[topic.exchange]
            )

        received = Received(here, topic, news)
        also = Received(there, Queue("more-news", news.exchange))
        publish("apple", "fruit.apple")
        publish("beef", "meat.beef")
        assert received.wait(1) == ["apple"]
        bound = topic(here.default_channel)
        bound.bind_to(topic.exchange, routing_key="meat.*")
        publish("pork", "meat.pork")
        assert received.wait(1) == ["pork"]
        bound.unbind_from(topic.exchange, routing_key="meat.*")
        publish("lamb", "meat.lamb")
        producer.publish("to all", exchange="all")
        assert received.wait(1) == ["to all"]
        assert also.wait(1) == ["to all"]
        also.consumer.cancel()
        producer.publish("to some", exchange="all")
        assert received.wait(1) == ["to some"]
        received.consumer.cancel()

        # Claims that are not renewed go to somebody else, marked; those of Kombu, too.
        for n in range(30):
            producer.publish({"n": n}, routing_key="plain")
        held = [plain.get() for _ in range(30)]
        for score, message in enumerate(held, 1):
            server.command("ZADD", "unacked_index", "XX", score, message.delivery_tag)
        raw = server.command("HGET", "unacked", held[0].delivery_tag)
        stock = raw.replace(b'"", "plain"]', b'"market", "fruit.apple"]')
        server.command("HSET", "unacked", "of-kombu", stock)
        server.command("ZADD", "unacked_index", 1, "of-kombu")
        there.default_channel.qos.restore_visible(num=None)
        assert claims(server) == 0
        again = [plain.get() for _ in range(30)]
        assert [message.payload["n"] for message in again] == list(range(30))
        assert all(message.delivery_info["redelivered"] for message in again)
        assert bound.get().payload == {"n": 0}
        for message in held:
            message.ack()  # too late, and of no effect on who has it now
        assert claims(server) == 31


@pytest.mark.parametrize("build", OTHERS)
def test_other_versions(start: Start, build: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        exercise(start(build))
    assert not [record for record in caplog.records if "refuses" in record.getMessage()]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_refuses(
    start: Start, refusal: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It works, and one warning for all connections says what is lost."""
    server = start(refusal)
    with caplog.at_level(logging.WARNING):
        exercise(server)
    warnings = [r.getMessage() for r in caplog.records if "refuses" in r.getMessage()]
    assert len(warnings) == (1 if LOST[refusal] else 0)
    said = {text for text in (POLLING, SECOND_LINK, ONE_BY_ONE) if text in "".join(warnings)}
    assert said == LOST[refusal]


def test_options_of_the_other_ways(
    new_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """How often to look at queues, and what restoring without scripts takes turns by."""
    server = new_redis(unknown=["HELLO", *SCRIPTS])
    options = {
        "polling_interval": 2,
        "unacked_mutex_key": "turn",
        "unacked_mutex_expire": 60,
        "unacked_restore_interval": 0.1,
        # Soon after the start of a server claims are left to their owners, as long as these say.
        "visibility_timeout": 3,
        "renew_leases": False,
    }
    with (
        caplog.at_level(logging.WARNING),
        Connection(server.url(), transport_options=options) as connection,
    ):
        queue = Queue("q")(connection.channel())
        queue.declare()
        connection.Producer().publish(1, routing_key="q")
        message = queue.get()
        server.command("SET", "turn", "somebody else's", "PX", 60_000)
        server.command("ZADD", "unacked_index", "XX", 1, message.delivery_tag)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert queue.get() is None
        server.command("DEL", "turn")
        wait_until(lambda: claims(server) == 0, 20, "the claim to be restored")
        wait_until(lambda: server.command("EXISTS", "turn") == 0, 20, "the turn to end")
    assert "look for messages every 2 s" in caplog.text


def test_no_password_is_told(
    new_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Servers repeat the arguments of a command that they do not know."""
    with_hello = new_redis(password="Passw0rd", unknown=["HELLO"])
    with caplog.at_level(logging.DEBUG), Connection(with_hello.url()) as connection:
        connection.connect()
    assert "refuses RESP3 (ERR unknown command" in caplog.text
    without_auth = new_redis(unknown=["HELLO", "AUTH"])
    url = without_auth.url(user="somebody", password="Passw0rd")
    with pytest.raises(Connection(url).connection_errors, match="refused the log-in") as raised:
        Connection(url).connect()
    assert "Passw0rd" not in f"{caplog.text} {raised.value!r} {raised.value}"


def test_claims_of_a_killed_consumer_come_back(start: Start) -> None:
    """Without scripts: a consumer that lives keeps its claims, one that is killed does not."""
    server = start("bare")
    options = {"visibility_timeout": 1}
    program = textwrap.dedent(
        """
        import sys
        from kombu_rs import Connection, Consumer, Queue
        options = {"visibility_timeout": 1}
        with Connection(sys.argv[1], transport_options=options) as connection:
            got = []
            with Consumer(connection, [Queue("q")], on_message=got.append, prefetch_count=5):
                while len(got) < 5:
                    connection.drain_events(timeout=20)
                print("held", flush=True)
                sys.stdin.read()
        """
    )
    with Connection(server.url(), transport_options=options) as connection:
        queue = Queue("q")(connection.channel())
        queue.declare()
        for n in range(5):
            connection.Producer().publish(n, routing_key="q")
        with subprocess.Popen(
            [sys.executable, "-c", program, server.url()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            tags = server.command("HKEYS", "unacked")
            scores = {tag: float(server.command("ZSCORE", "unacked_index", tag)) for tag in tags}
            received = Received(connection, queue)

            def renewed() -> bool:
                with pytest.raises(TimeoutError):
                    connection.drain_events(timeout=0.1)
                return all(
                    float(server.command("ZSCORE", "unacked_index", tag)) > score + 1
                    for tag, score in scores.items()
                )

            wait_until(renewed, what="claims to be renewed for longer than they are visible")
            holder.send_signal(signal.SIGKILL)
        assert received.wait(5) == [0, 1, 2, 3, 4]


def test_a_message_that_cannot_be_claimed_goes_back(start: Start) -> None:
    """Without scripts popping and claiming are two steps: between them nothing is lost."""
    server = start("no-scripts")
    with Connection(server.url()) as connection:
        queue = Queue("q")(connection.channel())
        queue.declare()
        producer = connection.Producer()
        for n in range(2):
            producer.publish(n, routing_key="q")
        try:
            server.command("ACL", "SETUSER", "default", "-hset")
            with pytest.raises((ChannelError, *connection.connection_errors)):
                queue.get()
            assert server.command("LLEN", "q") == 1
        finally:
            server.command("ACL", "SETUSER", "default", "+hset")
        messages = [queue.get(), queue.get()]
        assert [message.payload for message in messages] == [0, 1]
        assert queue.get() is None
        try:
            # And when its connection goes before it can be put back.
            producer.publish(2, routing_key="q")
            server.command("ACL", "SETUSER", "default", "-hset")
            with pytest.raises((ChannelError, *connection.connection_errors)):
                queue.get()
        finally:
            server.command("ACL", "SETUSER", "default", "+hset")
    wait_until(lambda: server.command("LLEN", "q") == 3, what="all messages in their queue")


def test_a_lost_fanout_link_is_made_again(start: Start) -> None:
    """In RESP2 fanout has a link of its own; when that is lost the connection counts as lost."""
    server = start("no-resp3")
    with Connection(server.url()) as here, Connection(server.url()) as there:
        queue = Queue("news", Exchange("all", "fanout"))
        received = Received(here, queue)
        there.Producer().publish("before", exchange="all")
        assert received.wait(1) == ["before"]
        assert server.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        with pytest.raises(here.connection_errors):
            here.drain_events(timeout=20)
        received = Received(here, queue)
        there.Producer().publish("after", exchange="all")
        assert received.wait(1) == ["after"]
