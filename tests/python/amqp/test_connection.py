"""Connections of the native AMQP transport: log-in, options, counters."""

from __future__ import annotations

import logging
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from kombu_rs import Connection, Queue, exceptions
from kombu_rs.transport.amqp import Connection as Link
from servers.certificates import Authority
from servers.process import wait_until
from servers.proxy import FaultProxy
from servers.rabbitmq import RabbitMQServer

WORK = Queue("work", routing_key="work")
CONFIRMED = {"confirm_publish": True}


class Provider:
    """Makes credentials, as those of redis-py do."""

    def __init__(self, user: str = "unknown", password: str = "unknown") -> None:
        self.answer: Any = (user, password)
        self.asked = 0

    def get_credentials(self) -> Any:
        """What a connection logs in with."""
        self.asked += 1
        return self.answer


class TestLogIn:
    """Passwords that change, and that nobody sees."""

    @pytest.fixture
    def user(self, rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str) -> Callable[[str], None]:
        """Sets the password of the user ``rotating``."""

        def set_password(password: str) -> None:
            rabbitmq_server.api("PUT", "users/rotating", {"password": password, "tags": ""})

        set_password("first")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        rabbitmq_server.api("PUT", f"permissions/{rabbitmq_vhost}/rotating", everything)
        return set_password

    def test_a_function_is_asked_for_each_connection(
        self,
        user: Callable[[str], None],
        rabbitmq_server: RabbitMQServer,
        rabbitmq_vhost: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        now = ["first"]
        url = f"amqp://localhost:{rabbitmq_server.port}/{rabbitmq_vhost}"
        shown: list[str] = []
        with Connection(url, userid="rotating", password=lambda: now[0]) as connection:
            producer = connection.Producer()
            producer.publish("1", routing_key="work", declare=[WORK])
            link = connection.connect()
            now[0] = "s3cond"
            user(now[0])
            link.collect()
            producer.publish("2", routing_key="work", declare=[WORK], retry=True)
            assert connection.connection is not link
            now[0] = "not-known"
            connection.connection.collect()
            with pytest.raises(exceptions.AccessRefused) as refused:
                connection.connect()
            shown += [str(refused.value), *getattr(refused.value, "__notes__", ())]
            shown += [repr(connection), connection.as_uri(), repr(link), str(link.__dict__)]
        assert not re.search("first|s3cond|not-known", " ".join([*shown, caplog.text]))

    def test_a_way_that_the_broker_does_not_offer(self, rabbitmq_url: str) -> None:
        with pytest.raises(exceptions.ConnectionError, match="no log-in by EXTERNAL"):
            Connection(rabbitmq_url, login_method="EXTERNAL").connect()

    def test_pools_ask_too(
        self, user: Callable[[str], None], rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str
    ) -> None:
        asked: list[int] = []

        def password() -> str:
            asked.append(1)
            return "first"

        url = f"amqp://localhost:{rabbitmq_server.port}/{rabbitmq_vhost}"
        with Connection(url, userid="rotating", password=password) as connection:
            pool = connection.Pool(2)
            with pool.acquire() as one, pool.acquire() as other:
                one.connect()
                other.connect()
            assert len(asked) == 2
            pool.force_close_all()

    def test_a_provider_is_asked_for_each_connection(
        self, user: Callable[[str], None], rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str
    ) -> None:
        provider = Provider("rotating", "first")
        url = f"amqp://nobody:wrong@localhost:{rabbitmq_server.port}/{rabbitmq_vhost}"
        with Connection(url, credential_provider=provider) as connection:
            connection.connect()
            provider.answer = ("rotating", "s3cond")
            user("s3cond")
            connection.connection.collect()
            connection.connect()
            provider.answer = ("s3cond",)
            connection.collect()
            with pytest.raises(exceptions.AccessRefused):
                connection.connect()  # as nobody
        assert provider.asked == 3
        named = f"kombu-rs+{url}?credential_provider={Provider.__module__}.Provider"
        for made in (
            Connection(f"{url}?credential_provider={Provider.__module__}.Provider"),
            Connection(named.removeprefix("kombu-rs+"), transport="kombu_rs.transport:Transport"),
        ):
            with made, pytest.raises(exceptions.AccessRefused):
                made.connect()  # as somebody whom Provider() makes up

    @pytest.mark.parametrize("provider", [object(), 7, "tests.nowhere.Provider"])
    def test_what_is_no_provider(self, provider: Any) -> None:
        with (
            Connection("amqp://", credential_provider=provider) as connection,
            pytest.raises((TypeError, ImportError), match="credential_provider"),
        ):
            connection.connect()

    @pytest.mark.parametrize("answer", ["s3cret", ("a", "b", "s3cret"), None])
    def test_a_provider_that_answers_something_else(self, answer: Any) -> None:
        provider = Provider()
        provider.answer = answer
        with (
            Connection("amqp://", credential_provider=provider) as connection,
            pytest.raises(TypeError, match=r"must return \(user, password\)") as raised,
        ):
            connection.connect()
        assert "s3cret" not in str(raised.value)


def test_who_gives_up_does_not_wait(
    rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str, new_proxy: Callable[[int], FaultProxy]
) -> None:
    """For a broker that is silent: each goodbye would be waited for two seconds."""
    proxy = new_proxy(rabbitmq_server.port)
    url = f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}"
    connections = [Connection(url) for _ in range(20)]
    for connection in connections:
        connection.channel().basic_qos(prefetch_count=1)
    proxy.blackhole()
    begun = time.monotonic()
    for connection in connections:
        connection.collect()
        assert not connection.connected
    assert time.monotonic() - begun < 20
    proxy.reset()


def test_what_was_acknowledged_before_giving_up_counts(rabbitmq_url: str) -> None:
    with Connection(rabbitmq_url) as connection:
        producer = connection.Producer()
        for number in range(50):
            producer.publish(number, routing_key="work", declare=[WORK])
        for message in [WORK(connection.default_channel).get() for _ in range(50)][:49]:
            message.ack()
        connection.collect()
        queue = WORK(connection.channel())
        again = wait_until(queue.get, 10, "the last one to come again")
        assert (again.payload, again.delivery_info["redelivered"]) == (49, True)
        assert queue.get() is None


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"heartbeat": -1}, "'heartbeat' must be a number of seconds from 0 to 65535"),
    ({"heartbeat": "often"}, "'heartbeat' must be a number of seconds, not a text"),
    ({"frame_max": 100}, "'frame_max' must be 0 or a number of bytes from 4096 on"),
    ({"channel_max": 70_000}, "'channel_max' must be a number from 0 to 65535"),
    ({"connect_timeout": -2}, "'connect_timeout' must be a positive number of seconds"),
    ({"read_timeout": "x"}, "'read_timeout' must be a number of seconds, not a text"),
    ({"write_timeout": -1}, "'write_timeout' must be a positive number of seconds"),
    ({"publish_timeout": -1}, "'publish_timeout' must be a positive number of seconds"),
    ({"login_method": "NTLM"}, "'login_method' must be 'PLAIN', 'AMQPLAIN' or 'EXTERNAL'"),
    ({"login_response": b"x"}, "login_response is not supported: say login_method"),
    ({"client_properties": 3}, "'client_properties' must be a dictionary"),
    ({"confirm_publish": "maybe"}, "'confirm_publish' must be true or false"),
    ({"socket_settings": {3: 1}}, "'3' is not supported in `socket_settings`"),
    ({"frame_handler": print}, "frame_handler is not supported"),
    ({"frame_writer": print}, "frame_writer is not supported"),
    ({"ssl": {"colour": 1}}, "'colour' is not one of TLS: there are ca_certs"),
    ({"ssl": {"ciphers": "ALL"}}, 'ciphers: there is no "ALL" here; there are ECDHE'),
    ({"ssl": {"ssl_version": ssl.PROTOCOL_TLSv1_1}}, "'ssl_version' must be"),
    ({"ssl": {"context": ssl.SSLContext}}, "'context' in `ssl` must be a dictionary of cafile"),
    ({"ssl": {"context": {"purpose": 1}}}, "'purpose' in `context` is not supported"),
    ({"ssl": {"server_side": True}}, "'server_side' must be false"),
    ({"hartbeat": 1}, 'knows no option "hartbeat"; it knows channel_max'),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("options", "why"), OPTIONS, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_named_with_what_would_be_right(
    options: dict[str, Any], why: str
) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        Link(**options)
    assert why in str(raised.value)


def test_tls_in_the_words_of_py_amqp(
    rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str, authority: Authority
) -> None:
    url = rabbitmq_server.url(rabbitmq_vhost, tls=True)
    ca = str(authority.ca)
    for options in (
        {"ca_certs": ca, "ssl_version": ssl.PROTOCOL_TLS_CLIENT, "server_side": False},
        {"ca_certs": ca, "tls_minimum_version": ssl.TLSVersion.TLSv1_3},
        {"ca_certs": ca, "ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384", "keyfile": None},
        {"context": {"cafile": ca, "check_hostname": True}},
        {"context": {"cadata": authority.ca.read_text()}},
        {"cert_reqs": ssl.CERT_NONE, "check_hostname": False},
    ):
        with Connection(url, ssl=options, connect_timeout=5) as connection:
            assert connection.connect().connected, options


def test_counters(rabbitmq_url: str) -> None:
    """They count over all connections of the transport, and do not ask the broker."""
    with Connection(rabbitmq_url, transport_options=CONFIRMED) as connection:
        transport = connection.transport
        assert transport.statistics().published == 0
        producer = connection.Producer()
        for number in range(5):
            producer.publish(number, routing_key="work", declare=[WORK])
        with pytest.raises(exceptions.ChannelError, match="NO_ROUTE"):
            producer.publish("x", routing_key="nobody", mandatory=True)
        full = Queue(
            "full",
            routing_key="full",
            max_length=1,
            queue_arguments={"x-overflow": "reject-publish"},
        )
        producer.publish("x", routing_key="full", declare=[full])
        with pytest.raises(exceptions.MessageNacked):
            producer.publish("y", routing_key="full")
        assert connection.default_channel.depth("work") == {0: 5}
        with pytest.raises(exceptions.NotFound):
            connection.default_channel.depth("nowhere")
        got: list[Any] = []
        with connection.Consumer([WORK], on_message=got.append, prefetch_count=3):
            wait_until(lambda: connection.drain_events(timeout=10) or len(got) == 3, 10, "three")
            held = transport.statistics()
            assert (held.unacked, held.received) == (3, 3)
            assert held.oldest_unacked_seconds is not None
            assert 0 < held.oldest_unacked_seconds < 60
            got[0].ack()
            got[1].reject()
            got[2].requeue()
        for message in got[3:]:
            message.ack()  # fetched ahead, and handed over when the consumer was cancelled
        first = transport.statistics()
        assert (first.published, first.confirmed, first.nacked, first.returned) == (8, 7, 1, 1)
        assert (first.acked, first.rejected, first.unacked) == (len(got) - 2, 2, 0)
        assert first.oldest_unacked_seconds is None
        assert (first.reconnects, first.blocked_seconds) == (0, 0)
        connection.connection.collect()
        producer.publish("again", routing_key="work", declare=[WORK], retry=True)
        again = connection.transport.statistics()
        if connection.transport is transport:
            assert (again.published, again.confirmed, again.reconnects) == (9, 8, 1)


def test_heartbeats_are_counted(
    rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str, new_proxy: Callable[[int], FaultProxy]
) -> None:
    proxy = new_proxy(rabbitmq_server.port)
    url = f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}"
    with Connection(url, heartbeat=1) as connection:
        link = connection.connect()
        statistics = connection.transport.statistics

        def both_beat() -> bool:
            now = statistics()
            return now.heartbeats_sent > 1 and now.heartbeats_received > 1

        wait_until(both_beat, 20, "heartbeats")
        proxy.blackhole()
        wait_until(lambda: not link.connected, 20, "the silence to be noticed")
        assert statistics().heartbeats_missed >= 2


def test_an_idle_pooled_producer_has_a_live_link(
    rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str, new_proxy: Callable[[int], FaultProxy]
) -> None:
    """Heartbeats go out while nobody uses it, and a dead one is known before it is used."""
    proxy = new_proxy(rabbitmq_server.port)
    url = f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}"
    with Connection(url, heartbeat=1, transport_options=CONFIRMED) as connection:
        pool = connection.Pool(1).acquire  # the link goes back to it each time
        with pool() as pooled:
            link = pooled.connect()
            pooled.Producer().publish("1", routing_key="work", declare=[WORK])
            sent = pooled.transport.statistics
        # The broker gives a client up after two intervals of silence: it has heard three more.
        wait_until(lambda: sent().heartbeats_sent >= 6, 30, "heartbeats of an idle link")
        assert link.connected
        proxy.half_open()
        wait_until(lambda: not link.connected, 30, "the dead link to be noticed")
        # Without retries: the first try is on a good link.
        pooled.Producer().publish("2", routing_key="work")
        assert pooled.default_channel.depth("work") == {0: 2}
        pooled._close()


GREENLETS = """
import gevent, gevent.monkey
gevent.monkey.patch_all()
import sys, time
from kombu_rs import Connection, Queue

with Connection(sys.argv[1]) as busy, Connection(sys.argv[1]) as idle:
    idle.connect()
    idle.default_channel
    got = []
    queue = Queue("work", routing_key="work")
    early = 0
    with busy.Consumer([queue], on_message=got.append):
        for number in range(20):
            busy.Producer().publish(number, routing_key="work")
            busy.drain_events(timeout=20)
            assert len(got) == number + 1
            rung = []
            bell = gevent.spawn_later(0.09, rung.append, 1)
            try:
                idle.drain_events(timeout=0.1)
            except TimeoutError:
                pass
            early += not rung
            bell.kill()
    assert early, "each wait took its time"
    start = time.monotonic()
    try:
        idle.drain_events(timeout=0.1)
    except TimeoutError:
        pass
    assert time.monotonic() >= start + 0.1, "nothing came over another connection: it waits"
"""


def test_greenlets_are_not_held_up_by_a_connection_without_consumers(rabbitmq_url: str) -> None:
    """Celery looks into the connection of its events after each message."""
    subprocess.run([sys.executable, "-c", GREENLETS, rabbitmq_url], check=True, timeout=60)
