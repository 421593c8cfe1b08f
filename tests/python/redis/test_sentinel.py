"""``sentinel://``, with real sentinels."""

from __future__ import annotations

import contextlib
import socketserver
import threading

import pytest
import redis

from kombu_rs import Connection, Exchange, Queue
from kombu_rs.exceptions import OperationalError
from kombu_rs.transport.redis import SentinelChannel, Transport
from servers.process import wait_until
from servers.redis import Sentinel


@pytest.fixture
def servers(new_redis):
    """A master, its replica, and a sentinel that watches them."""
    master = new_redis(config={"repl-diskless-sync-delay": "0"})
    replica = new_redis(config={"replicaof": f"127.0.0.1 {master.port}"})
    with Sentinel(master) as sentinel:
        wait_until(sentinel.replicas, 30.0, "the sentinel's knowledge of the replica")
        yield master, replica, sentinel


class OneSentinel(socketserver.ThreadingTCPServer):
    """Speaks as a sentinel, and says what the test wants.

    A real one would also end the links to the old master.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, master):
        super().__init__(("127.0.0.1", 0), self.Talk)
        self.master = master
        self.subscribers = []

    @property
    def url(self):
        return f"sentinel://127.0.0.1:{self.server_address[1]}/0"

    def switch(self, master):
        old, self.master = self.master, master
        text = f"mymaster 127.0.0.1 {old.port} 127.0.0.1 {master.port}"
        for out in self.subscribers:
            out.write(b">3\r\n" + bulks("message", "+switch-master", text))

    class Talk(socketserver.StreamRequestHandler):
        wbufsize = 0

        def handle(self):
            while words := self.command():
                self.wfile.write(self.answer(words))

        def command(self):
            count = self.rfile.readline().strip()
            words = []
            for _ in range(int(count[1:] or 0)):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2].decode())
            return words

        def answer(self, words):
            if words[0] == "HELLO":
                return b"%1\r\n" + bulks("proto", "3")
            if words[0] == "SUBSCRIBE":
                self.server.subscribers.append(self.wfile)
                return b">3\r\n" + bulks("subscribe", words[1]) + b":1\r\n"
            if words[0] == "SENTINEL":
                port = str(self.server.master.port)
                return b"*6\r\n" + bulks("ip", "127.0.0.1", "port", port, "flags", "master")
            return b"+PONG\r\n"


def bulks(*words):
    return b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


def test_a_switch_is_followed_at_once(new_redis):
    """Also when the old master still answers, and takes messages."""
    old, new = new_redis(), new_redis()
    with OneSentinel(old) as sentinel:
        threading.Thread(target=sentinel.serve_forever, daemon=True).start()
        try:
            with connect(sentinel.url) as connection:
                producer = connection.Producer()
                producer.publish("x", routing_key="q")
                assert old.command("LLEN", "q") == 1
                wait_until(lambda: sentinel.subscribers, 10, "the subscription")
                sentinel.switch(new)
                transport = connection.transport
                wait_until(lambda: not transport._is_connected(), 10, "the end of the link")
                producer.publish("y", routing_key="q")
                assert (old.command("LLEN", "q"), new.command("LLEN", "q")) == (1, 1)
        finally:
            sentinel.shutdown()


def connect(url, **options):
    return Connection(url, transport_options={"master_name": "mymaster", **options})


def test_the_next_master_is_found(servers):
    master, replica, sentinel = servers
    with connect(sentinel.url(1)) as connection:
        producer = connection.Producer()
        queue = connection.SimpleQueue("q")
        producer.publish("before", routing_key="q")
        assert queue.get(timeout=5).payload == "before"
        assert b"db1:" in master.command("INFO", "keyspace")
        master.stop()

        def publish():
            with contextlib.suppress(*connection.connection_errors):
                producer.publish("after", routing_key="q")
                return True

        wait_until(publish, 30.0, "a message to the next master", interval=0.1)
        assert sentinel.master_port() == replica.port
        wait_until(lambda: queue.get(timeout=5).payload == "after")
        queue.close()


def test_the_first_sentinel_that_answers_is_believed(servers):
    master, _, sentinel = servers
    dead = "sentinel://127.0.0.1:1/0"
    with connect(f"{dead};{sentinel.url()}") as connection:
        connection.Producer().publish("x", routing_key="q")
        assert connection.default_channel.client.llen("q") == 1  # redis-py finds it as well
    assert master.command("LLEN", "q") == 1


def test_sentinels_may_want_a_password(new_redis):
    master = new_redis(password="for the master")
    with Sentinel(master, password="for the sentinel") as sentinel:
        url = f"sentinel://:for%20the%20master@127.0.0.1:{sentinel.port}/0"
        with connect(url, sentinel_kwargs={"password": "for the sentinel"}) as connection:
            connection.Producer().publish("x", routing_key="q")
        assert master.command("LLEN", "q") == 1
        with pytest.raises(OperationalError, match="refused the log-in") as caught:
            connect(url, sentinel_kwargs={"password": "wr0ng"}).connect()
        assert "wr0ng" not in str(caught.value)


def test_what_is_missing_is_named(servers):
    _, _, sentinel = servers
    with pytest.raises(ValueError, match="master_name"):
        Connection(sentinel.url()).connect()
    with pytest.raises(redis.exceptions.ConnectionError, match="other sentinels"):
        connect(sentinel.url(), min_other_sentinels=2).connect()
    with pytest.raises(OperationalError, match="'else'"):
        connect(sentinel.url(), master_name="else").connect()
    with pytest.raises(ValueError, match="sentinel_kwargs"):
        connect(sentinel.url(), sentinel_kwargs={"bogus": 1}).connect()


def test_a_pool_of_redis_py_over_sentinels_is_followed(servers):
    master, _, sentinel = servers

    class Own(SentinelChannel):
        def _sentinel_managed_pool(self, asynchronous=False):
            manager = redis.Sentinel([("127.0.0.1", sentinel.port)])
            return manager.master_for("mymaster", db=2).connection_pool

    own = type("OwnTransport", (Transport,), {"Channel": Own})
    with Connection(hostname="nowhere.invalid", transport=own) as connection:
        connection.Producer().publish("x", routing_key="q")
    assert b"db2:keys=1" in master.command("INFO", "keyspace")


def test_older_peers_hear_and_are_heard(servers):
    master, _, sentinel = servers
    exchange = Exchange("fx", "fanout")
    got = []
    older = redis.Redis(port=master.port)  # before Kombu 5.4 nobody filled in the database
    with (
        older.pubsub() as older_one,
        connect(sentinel.url(), sentinel_fanout_compat=True) as new,
        connect(sentinel.url(), sentinel_fanout_compat=True) as peer,
        new.Consumer([Queue("q", exchange)], callbacks=[lambda body, message: got.append(body)]),
    ):
        older_one.subscribe("/{db}.fx")
        assert older_one.get_message(timeout=5)["type"] == "subscribe"
        channel = new.default_channel
        assert channel._get_publish_topics("fx", "k") == ["/0.fx/k", "/{db}.fx/k"]
        peer.Producer(exchange=exchange).publish("once", declare=[exchange])
        heard = older_one.get_message(timeout=5)["data"]
        older.publish("/{db}.fx", heard.replace(b'"delivery_tag": "', b'"delivery_tag": "other-'))
        for _ in range(2):
            new.drain_events(timeout=5)
        new.drain_events(timeout=0.2)  # the answer to the subscription
        with pytest.raises(TimeoutError):
            new.drain_events(timeout=0.2)
    assert got == ["once", "once"]
