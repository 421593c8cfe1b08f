"""The links of a connection: how many, with which credentials, and the loss of one."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from kombu_rs import Connection, Exchange, Queue
from kombu_rs.exceptions import OperationalError
from kombu_rs.transport.redis import Channel, Transport
from servers.process import wait_until

#: Seconds of `reconnect_grace` in these tests: longer than any outage here.
GRACE = 30

#: A message of a peer that has no link of this process.
MESSAGE = json.dumps(
    {
        "body": "ImJ5IGhhbmQi",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {},
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "delivery_tag": "1",
        },
    }
)


def test_no_more_links_than_max_connections(new_redis):
    # A server of its own: the links count that other tests of this process have to theirs.
    url = f"redis://127.0.0.1:{new_redis().port}/0"
    options = {"max_connections": 2}
    first, second, third = (Connection(url, transport_options=options) for _ in range(3))
    try:
        first.connect()
        second.connect()
        with pytest.raises(redis.exceptions.ConnectionError, match=r"Too many connections.* 2 "):
            third.transport.establish_connection()
        second.release()
        third.connect()
        assert third.connected
        # Who has no limit is not held up, but counts.
        with Connection(url) as other:
            other.connect()
    finally:
        for connection in (first, second, third):
            connection.release()


@pytest.mark.parametrize("fault", ["cut", "reset", "half_open"])
def test_a_lost_link_makes_room_for_the_next(new_redis, new_proxy, fault):
    """At the limit, too, where the link that compares a silent one is one too many."""
    server = new_redis()
    proxy = new_proxy(server.port)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    options = {"max_connections": 1, "reconnect_grace": GRACE, "socket_timeout": 600}
    got = []
    with (
        Connection(url, transport_options=options) as connection,
        Connection(url, transport_options=options) as other,
        connection.Consumer([Queue("q")], callbacks=[lambda body, message: got.append(body)]),
    ):
        producer = connection.Producer()
        for turn in range(2):
            producer.publish(turn, routing_key="q", retry=True, timeout=GRACE)
            while len(got) == turn:
                connection.drain_events(timeout=GRACE)
            with pytest.raises(redis.exceptions.ConnectionError, match="Too many connections"):
                other.transport.establish_connection()
            getattr(proxy, fault)()
        server.command("LPUSH", "q", MESSAGE)
        while len(got) == 2:
            connection.drain_events(timeout=GRACE)
        connection.release()
        other.connect()
    assert got == [0, 1, "by hand"]


def test_restoring_goes_on_at_the_limit_of_links(new_redis):
    """Without scripts it takes a link of its own, which is not counted."""
    server = new_redis(users={"app": ">secret ~* &* +@all -eval -evalsha -script"})
    options = {"max_connections": 1, "visibility_timeout": 0.5, "renew_leases": False}
    url = server.url(user="app", password="secret")
    with Connection(url, transport_options=options) as connection:
        got = []
        with connection.Consumer([Queue("q")], on_message=got.append, prefetch_count=5):
            connection.Producer().publish("x", routing_key="q")
            while len(got) < 2:
                connection.drain_events(timeout=GRACE)
    assert got[1].headers["redelivered"]


def test_credentials_may_change(new_redis):
    server = new_redis(users={"app": ">one ~* &* +@all"})

    class Rotating(redis.CredentialProvider):
        password = "one"

        def get_credentials(self):
            return "app", self.password

    provider = Rotating()
    url = f"redis://127.0.0.1:{server.port}/0"
    with Connection(url, credential_provider=provider) as connection:
        producer = connection.Producer()
        queue = connection.SimpleQueue("q")
        producer.publish("before", routing_key="q")
        assert queue.get(timeout=5).payload == "before"
        transport = connection.transport
        provider.password = "two"
        server.command("ACL", "SETUSER", "app", "resetpass", ">two")
        server.drop_clients()
        wait_until(lambda: not transport._is_connected(), 10, "the loss of the link")
        producer.publish("after", routing_key="q")  # the same connection, another link
        assert connection.transport is transport
        assert queue.get(timeout=5).payload == "after"
        queue.close()


def test_a_password_may_be_a_function(new_redis):
    server = new_redis(password="one")
    passwords = ["one"]
    with Connection(
        f"redis://127.0.0.1:{server.port}/0", password=lambda: passwords[-1]
    ) as connection:
        producer = connection.Producer()
        producer.publish("x", routing_key="q")
        transport = connection.transport
        with server.client() as client:
            client.command("CONFIG", "SET", "requirepass", "two")
            passwords.append("two")
            client.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            wait_until(lambda: not transport._is_connected(), 10, "the loss of the link")
            producer.publish("y", routing_key="q")
            assert client.command("LLEN", "q") == 2


def watched(server, subscribed=False):
    """The ids of the links named "watched", all or those with a subscription."""
    lines = server.command("CLIENT", "LIST").decode().splitlines()
    clients = [dict(part.split("=", 1) for part in line.split(" ")) for line in lines]
    ours = [client for client in clients if client["name"] == "watched"]
    return {client["id"] for client in ours if client["psub"] != "0" or not subscribed}


@pytest.mark.parametrize("loss", ["cut", "restart"])
def test_grace(new_redis, new_proxy, loss):
    """A consumer in its time of grace hears of nothing: not of messages twice, nor of an error."""
    server = new_redis(appendonly=True, config={"appendfsync": "always"})
    proxy = new_proxy(server.port)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    options = {"reconnect_grace": GRACE, "visibility_timeout": 2, "client_name": "watched"}
    fanout = Exchange("fx", "fanout")
    got = []
    with (
        Connection(url, transport_options=options) as connection,
        Connection(server.url()) as peer,
        connection.Consumer(
            [Queue("q"), Queue("fq", fanout, auto_delete=True)],
            on_message=got.append,
        ),
    ):
        producer = peer.Producer()
        producer.publish("before", routing_key="q")
        connection.drain_events(timeout=10)
        lost = threading.Event()
        (earlier,) = watched(server, subscribed=True)

        def publish():
            lost.wait(30)
            again = {earlier} if loss == "cut" else set()  # a new server counts from the start
            wait_until(
                lambda: watched(server, subscribed=True) - again,
                30,
                "the subscription over the next link",
            )
            with Connection(server.url()) as other:
                producer = other.Producer()
                producer.publish("after", routing_key="q")
                producer.publish("fanned", exchange="fx", declare=[fanout])

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            if loss == "cut":
                proxy.cut()
            else:
                server.restart()
            lost.set()
            while len(got) < 3:
                connection.drain_events(timeout=30)
        finally:
            lost.set()
            thread.join()
        assert sorted(message.payload for message in got) == ["after", "before", "fanned"]
        assert connection.connected
        for message in got:
            message.ack()  # the claim of the first has outlived its link
        wait_until(lambda: server.command("HLEN", "unacked") == 0, 10, "the acknowledgements")
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
        assert len(got) == 3


def test_the_end_of_grace(new_redis):
    server = new_redis()
    options = {"reconnect_grace": 0.5}
    with (
        Connection(server.url(), transport_options=options) as connection,
        connection.Consumer([Queue("q")]),
    ):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        server.stop()
        with pytest.raises(connection.connection_errors, match="cannot connect"):
            connection.drain_events(timeout=30)
        assert not connection.connected


def test_a_publish_ends_in_time(new_redis, new_proxy):
    """With retries and a declaration, on a link that has died without a word and on none."""
    server = new_redis()
    proxy = new_proxy(server.port)
    exchange = Exchange("ex", "direct")
    policy = {"max_retries": 50, "interval_start": 0.1, "interval_max": 0.2}

    def publish(connection, **options):
        connection.Producer(exchange=exchange).publish(
            "x",
            routing_key="q",
            declare=[Queue("q", exchange, routing_key="q")],
            timeout=0.3,
            **options,
        )

    def took(connection, errors, **options):
        start = time.monotonic()
        with pytest.raises(errors):
            publish(connection, **options)
        return time.monotonic() - start

    with Connection(f"redis://127.0.0.1:{proxy.port}/0") as connection:
        publish(connection)
        proxy.blackhole()
        waits = [took(connection, TimeoutError)]
        waits.append(took(connection, OperationalError, retry=True, retry_policy=policy))
    proxy.refuse()
    with Connection(f"redis://127.0.0.1:{proxy.port}/0") as connection:
        waits.append(took(connection, OperationalError))
        waits.append(took(connection, OperationalError, retry=True, retry_policy=policy))
        with pytest.raises(ValueError, match="timeout must be a positive number"):
            connection.Producer().publish("x", timeout=-1)
        with pytest.raises(TypeError, match="timeout must be a number"):
            connection.Producer().publish("x", timeout="soon")
    # Not a limit for a busy machine, but far from the 5 and 15 seconds of the connection's own.
    assert max(waits) < 3


def test_a_broker_that_comes_back_ends_the_wait(new_redis):
    """Retries are as far apart as in Kombu, but nobody sleeps when the server is there again."""
    server = new_redis()
    server.stop()
    intervals = []
    back = threading.Event()

    def errback(error, interval):
        intervals.append(interval)
        back.set()

    def restart():
        back.wait(30)
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    calls = []
    start = time.monotonic()
    with Connection(server.url()) as connection:
        connection.ensure_connection(
            errback, interval_start=60, interval_max=60, callback=lambda: calls.append(1)
        )
        thread.join()
        assert intervals == [60]
        assert calls
        assert time.monotonic() - start < 50
        assert connection.connected


@contextmanager
def socket_of(server):
    """The socket of the link named "watched"."""
    lines = server.command("CLIENT", "LIST").decode().splitlines()
    (line,) = [line for line in lines if " name=watched " in line]
    port = int(line.split(" addr=127.0.0.1:")[1].split(" ")[0])
    for name in os.listdir("/proc/self/fd"):
        if not Path(f"/proc/self/fd/{name}").is_socket():
            continue
        with socket.socket(fileno=os.dup(int(name))) as link:
            if link.family == socket.AF_INET and link.getsockname()[1] == port:
                yield link
                return
    pytest.fail("the link is not one of this process")


@pytest.mark.parametrize("by", ["number", "name"])
def test_keepalive(new_redis, by):
    server = new_redis()
    wanted = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 7000}
    numbers = {getattr(socket, name): value for name, value in wanted.items()}
    options = {
        "client_name": "watched",
        "socket_keepalive": True,
        "socket_keepalive_options": numbers if by == "number" else wanted,
    }
    with Connection(server.url(), transport_options=options) as connection:
        connection.connect()
        with socket_of(server) as link:
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            set_to = {n: link.getsockopt(socket.IPPROTO_TCP, n) for n in numbers}
            assert set_to == numbers
    off = {"client_name": "watched", "socket_keepalive": False}
    with Connection(server.url(), transport_options=off) as connection:
        connection.connect()
        with socket_of(server) as link:
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    options["socket_keepalive_options"] = {socket.TCP_NODELAY: 1}
    with (
        Connection(server.url(), transport_options=options) as connection,
        pytest.raises(ValueError, match=r"TCP_USER_TIMEOUT, which \"1\" is not"),
    ):
        connection.connect()


def test_a_second_prefix_of_fanout(redis_server):
    """For messages of peers that have another one."""
    options = {"legacy_keyprefix_fanout": "/old."}
    got = []
    with Connection(redis_server.url(), transport_options=options) as connection:
        queue = Queue("fq", Exchange("fx", "fanout"), auto_delete=True)
        with connection.Consumer([queue], callbacks=[lambda body, _: got.append(body)]):
            assert redis_server.command("PUBLISH", "/old.fx", MESSAGE) == 1
            connection.drain_events(timeout=20)
    assert got == ["by hand"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"ca_certs": "/ca.pem"}, "it is spelt 'ssl_ca_certs'"),
        ({"cert_reqs": ssl.CERT_NONE}, "it is spelt 'ssl_cert_reqs'"),
        ({"bogus": 1}, "'bogus'; those of TLS begin with 'ssl_'"),
    ],
)
def test_arguments_of_tls_are_not_ignored(redis_server, settings, text):
    connection = Connection(redis_server.url(), ssl=settings)
    with pytest.raises(TypeError, match=text):
        connection.connect()


def test_own_arguments_of_links_are_not_ignored(redis_server):
    class Own(Channel):
        def _connparams(self, asynchronous=False):
            return {**super()._connparams(), "retry": None, "socket_tiemout": 1}

    class OwnTransport(Transport):
        Channel = Own

    connection = Connection(redis_server.url(), transport=OwnTransport)
    with pytest.raises(TypeError, match=r"no argument 'socket_tiemout'.* socket_timeout"):
        connection.connect()


@pytest.mark.parametrize("option", ["ssl_ca_data", "ssl_ca_path", "ssl_ca_certs"])
def test_authorities_and_versions_of_tls(new_redis, authority, option):
    server = new_redis(tls=authority)
    where = {
        "ssl_ca_certs": str(authority.ca),
        "ssl_ca_path": str(authority.ca.parent),
        "ssl_ca_data": authority.ca.read_text(),
    }
    settings = {
        option: where[option],
        "ssl_cert_reqs": ssl.CERT_OPTIONAL,
        "ssl_min_version": ssl.TLSVersion.TLSv1_3,
        "ssl_ciphers": "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256",
    }
    with Connection(f"redis://localhost:{server.port}/0", ssl=settings) as connection:
        connection.Producer().publish("x", routing_key="q")
        assert server.command("LLEN", "q") == 1


def test_a_link_that_died_without_a_word_is_replaced(new_redis, new_proxy):
    """Long before an answer is overdue, and while nobody asks for anything."""
    server = new_redis()
    proxy = new_proxy(server.port)
    options = {"reconnect_grace": GRACE, "socket_timeout": 600, "client_name": "watched"}
    got = []
    with (
        Connection(f"redis://127.0.0.1:{proxy.port}/0", transport_options=options) as connection,
        Connection(server.url()) as peer,
        connection.Consumer([Queue("q")], callbacks=[lambda body, message: got.append(body)]),
    ):
        producer = peer.Producer()
        producer.publish("before", routing_key="q")
        connection.drain_events(timeout=30)
        proxy.half_open()
        producer.publish("after", routing_key="q")
        while len(got) < 2:
            connection.drain_events(timeout=30)
    assert got == ["before", "after"]


def test_a_busy_server_keeps_its_links(new_redis):
    """It answers nobody, on old and on new links: then none is to blame."""
    server = new_redis()
    options = {"client_name": "watched", "socket_timeout": 60}
    with Connection(server.url(), transport_options=options) as connection:
        producer = connection.Producer()
        producer.publish("x", routing_key="q")
        link = watched(server)
        server.pause()
        timer = threading.Timer(4, server.resume)
        timer.start()
        try:
            producer.publish("y", routing_key="q")
        finally:
            timer.join()
        assert server.command("LLEN", "q") == 2
        wait_until(lambda: watched(server) == link, 10, "the end of the other attempts")
