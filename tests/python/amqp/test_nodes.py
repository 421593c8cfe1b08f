"""The native AMQP transport on a node of its own: blocked publishers, failover, TLS, EXTERNAL."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kombu_rs import Connection, Queue, exceptions
from servers.certificates import Authority
from servers.process import wait_until
from servers.proxy import FaultProxy
from servers.rabbitmq import RabbitMQServer

WORK = Queue("work", routing_key="work")
CONFIRMED = {"confirm_publish": True}


@pytest.fixture(scope="module")
def node(authority: Authority) -> Iterator[RabbitMQServer]:
    """A node that asks for certificates, takes them for log-in, and may be disturbed."""
    config = {
        "auth_mechanisms.1": "PLAIN",
        "auth_mechanisms.2": "EXTERNAL",
        "ssl_cert_login_from": "common_name",
    }
    plugins = ["rabbitmq_auth_mechanism_ssl"]
    with RabbitMQServer(tls=authority, config=config, plugins=plugins) as server:
        yield server


@pytest.fixture
def vhost(node: RabbitMQServer) -> Iterator[str]:
    """An empty virtual host of it."""
    with node.vhost() as name:
        yield name


@pytest.fixture
def alarm(node: RabbitMQServer) -> Iterator[Callable[[], None]]:
    """Sets the node's memory alarm; it is lifted after the test."""
    yield lambda: node.ctl("set_vm_memory_high_watermark", "0.00001")
    node.ctl("set_vm_memory_high_watermark", "0.4")


class TestBlocked:
    """A node without memory keeps no publisher for ever."""

    def test_a_publish_without_a_limit(
        self, node: RabbitMQServer, vhost: str, alarm: Callable[[], None]
    ) -> None:
        with contextlib.ExitStack() as stack:
            connections = []
            for options in (CONFIRMED, {}):
                given = options | {"publish_timeout": 0.5}
                connection = Connection(node.url(vhost), transport_options=given)
                connections.append(stack.enter_context(connection))
                connection.Producer().publish("before", routing_key="work", declare=[WORK])
            alarm()
            for connection in connections:
                producer = connection.Producer()

                def tell(producer: Any = producer) -> str | None:
                    # The node tells after the first one; without confirms more may go out before.
                    try:
                        producer.publish("x", routing_key="work")
                    except TimeoutError as error:
                        return str(error)
                    return None

                told = wait_until(tell, 20, "a publish to be refused")
                assert "takes no publishes: low on memory" in told
                # Everything else is held up by the node as well.
                with pytest.raises(TimeoutError, match="low on memory"):
                    connection.default_channel.queue_declare("another")
                assert connection.transport.statistics().blocked_seconds > 0
            node.ctl("set_vm_memory_high_watermark", "0.4")
            for connection in connections:
                connection.Producer().publish("after", routing_key="work", timeout=30)

    def test_one_limit_for_all_that_a_publish_does(
        self, node: RabbitMQServer, vhost: str, alarm: Callable[[], None]
    ) -> None:
        """Its own limit wins over publish_timeout, retries and connecting included."""
        given = CONFIRMED | {"publish_timeout": 600}
        with Connection(node.url(vhost), transport_options=given) as connection:
            producer = connection.Producer()
            producer.publish("before", routing_key="work", declare=[WORK])
            alarm()
            for retry in (False, True):
                begun = time.monotonic()
                with pytest.raises((TimeoutError, exceptions.OperationalError)) as raised:
                    producer.publish("x", routing_key="work", timeout=1, retry=retry)
                assert time.monotonic() - begun < 20  # and not 600
            assert "low on memory" in str(raised.value)


def test_what_is_given_up_on_a_blocked_connection_is_given_up(
    node: RabbitMQServer, vhost: str, alarm: Callable[[], None]
) -> None:
    """The node does it all the same when it reads again: consumers and channels are then ended."""
    given = {"publish_timeout": 0.5, "channel_max": 4}
    with Connection(node.url(vhost), transport_options=given) as connection:
        channel = connection.channel()
        channel.queue_declare("work")
        publish = functools.partial(channel.basic_publish, channel.prepare_message("x"))
        publish(routing_key="work")
        alarm()

        def is_blocked() -> bool:
            try:
                publish(routing_key="work")
            except TimeoutError:
                return True
            return False

        wait_until(is_blocked, 20, "a publish to be refused")
        with pytest.raises(TimeoutError):
            channel.basic_consume("work", callback=print, consumer_tag="given up")
        for _ in range(2):
            with pytest.raises(TimeoutError):
                connection.connection.channel()
        node.ctl("set_vm_memory_high_watermark", "0.4")
        with contextlib.ExitStack() as stack:
            # The numbers of those that were given up are free again.
            others = [stack.enter_context(connection.connection.channel()) for _ in range(2)]
            seen = connection.transport.statistics().received
            others[0].queue_declare("other")
            got: list[Any] = []
            others[1].basic_consume("other", callback=got.append)
            for number in range(50):
                others[0].basic_publish(others[0].prepare_message("x"), routing_key="other")
                while len(got) <= number:
                    connection.drain_events(timeout=10)
            # Those of the forgotten consumer have gone back, and did not come again and again.
            assert connection.transport.statistics().received - seen < 100


def test_a_publish_that_cannot_connect_ends_in_time(
    node: RabbitMQServer, vhost: str, new_proxy: Callable[[int], FaultProxy]
) -> None:
    proxy = new_proxy(node.port)
    url = f"amqp://127.0.0.1:{proxy.port}/{vhost}"
    with Connection(url, connect_timeout=60, transport_options=CONFIRMED) as connection:
        producer = connection.Producer()
        producer.publish("before", routing_key="work", declare=[WORK])
        proxy.blackhole()
        connection.connection.collect()
        begun = time.monotonic()
        with pytest.raises((TimeoutError, exceptions.OperationalError)):
            producer.publish("x", routing_key="work", timeout=0.5, retry=True)
        assert time.monotonic() - begun < 20  # and not 60
        connection.collect()


class TestFailover:
    """One node behind two proxies, as brokers behind two names are."""

    @pytest.fixture
    def proxies(
        self, node: RabbitMQServer, new_proxy: Callable[[int], FaultProxy]
    ) -> tuple[FaultProxy, FaultProxy]:
        return new_proxy(node.port), new_proxy(node.port)

    @pytest.fixture
    def url(self, proxies: tuple[FaultProxy, FaultProxy], vhost: str) -> str:
        return ";".join(f"amqp://127.0.0.1:{proxy.port}/{vhost}" for proxy in proxies)

    @pytest.mark.parametrize("fault", ["cut", "reset", "blackhole"])
    def test_publishing_goes_on_over_the_other_one(
        self, proxies: tuple[FaultProxy, FaultProxy], url: str, fault: str
    ) -> None:
        options = CONFIRMED
        given = {"connect_timeout": 1, "heartbeat": 1, "transport_options": options}
        with Connection(url, **given) as connection:
            producer = connection.Producer()
            for number, proxy in enumerate([*proxies, proxies[0]]):
                producer.publish(number, routing_key="work", declare=[WORK], retry=True)
                used = next(one for one in proxies if one.open_connections)
                if number == 2:
                    break
                assert used is proxy
                link = connection.connection
                if fault == "blackhole":
                    used.blackhole()
                else:
                    used.refuse()
                    getattr(used, fault)()
                wait_until(lambda link=link: not link.connected, 20, "the loss to be noticed")
                for other in proxies:
                    if other is not used:
                        other.heal()
                used.reset()
            assert connection.default_channel.depth("work")[0] == 3

    def test_consumers_go_on_over_the_other_one(
        self, proxies: tuple[FaultProxy, FaultProxy], url: str
    ) -> None:
        from kombu_rs.mixins import ConsumerMixin

        got: list[Any] = []

        class Worker(ConsumerMixin):
            def __init__(self, connection: Connection) -> None:
                self.connection = connection

            def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
                return [consumer([WORK], callbacks=[self.handle])]

            def handle(self, body: Any, message: Any) -> None:
                message.ack()
                got.append(body)

        with Connection(url, transport_options=CONFIRMED) as publishing:
            publishing.Producer().publish(0, routing_key="work", declare=[WORK])
            worker = Worker(Connection(url))
            thread = threading.Thread(target=worker.run, daemon=True)
            thread.start()
            wait_until(lambda: got == [0], 20, "the first message")
            proxies[0].refuse()
            proxies[0].reset()
            publishing.Producer().publish(1, routing_key="work", retry=True)
            wait_until(lambda: 1 in got, 20, "the second message")
            worker.should_stop = True
            thread.join(20)
            assert not thread.is_alive()


def test_a_consumer_and_the_restart_of_its_node(node: RabbitMQServer, vhost: str) -> None:
    """What was not acknowledged comes again; the acknowledgement of before is dropped."""
    options = {"transport_options": CONFIRMED, "heartbeat": 10}
    with Connection(node.url(vhost), **options) as connection:
        queue = Queue("kept", routing_key="kept")
        connection.Producer().publish("x", routing_key="kept", declare=[queue])
        got: list[Any] = []
        consumer = connection.Consumer([queue], on_message=got.append)
        consumer.consume()
        connection.drain_events(timeout=10)
        node.restart()
        with pytest.raises(connection.connection_errors):
            connection.drain_events(timeout=10)
        got[0].ack()
        connection.ensure_connection(timeout=30)
        with connection.Consumer([queue], on_message=got.append):
            connection.drain_events(timeout=10)
        assert [message.payload for message in got] == ["x", "x"]
        assert got[1].delivery_info["redelivered"]
        got[1].ack()


class TestTLS:
    """Who is who: ours and the node's certificates."""

    @pytest.fixture
    def ours(self, node: RabbitMQServer, vhost: str, authority: Authority) -> dict[str, str]:
        """The certificate of the user ``worker``, who has no password."""
        node.api("PUT", "users/worker", {"password_hash": "", "tags": ""})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        node.api("PUT", f"permissions/{vhost}/worker", everything)
        certificate, key = authority.issue("worker")
        return {"ca_certs": str(authority.ca), "certfile": str(certificate), "keyfile": str(key)}

    def test_a_certificate_is_a_log_in(
        self, node: RabbitMQServer, vhost: str, ours: dict[str, str]
    ) -> None:
        url = f"amqps://localhost:{node.tls_port}/{vhost}"
        with Connection(url, ssl=ours, login_method="EXTERNAL") as connection:
            connection.Producer().publish("x", routing_key="work", declare=[WORK], user_id="worker")
            assert WORK(connection.channel()).get(no_ack=True).properties["user_id"] == "worker"
        with Connection(f"{url}?login_method=external", ssl=ours) as connection:
            assert connection.connect().connected

    def test_a_certificate_of_nobody(
        self, node: RabbitMQServer, vhost: str, authority: Authority
    ) -> None:
        certificate, key = authority.issue("stranger")
        ca = str(authority.ca)
        known = {"ca_certs": ca, "certfile": str(certificate), "keyfile": str(key)}
        url = f"amqps://localhost:{node.tls_port}/{vhost}"
        for ssl_options in (known, {"ca_certs": ca}):
            connection = Connection(url, ssl=ssl_options, login_method="EXTERNAL")
            with pytest.raises((exceptions.AccessRefused, OSError, NotImplementedError)) as raised:
                connection.connect()
            assert "EXTERNAL" in str(raised.value)

    def test_a_certificate_by_another_authority(
        self, node: RabbitMQServer, vhost: str, ours: dict[str, str], tmp_path: Path
    ) -> None:
        certificate, key = Authority(tmp_path, name="somebody else").issue("worker")
        theirs = ours | {"certfile": str(certificate), "keyfile": str(key)}
        url = f"amqps://localhost:{node.tls_port}/{vhost}"
        with pytest.raises(OSError, match=r"our certificate \(certfile\) may be unknown"):
            Connection(url, ssl=theirs, login_method="EXTERNAL").connect()

    def test_files_that_cannot_be_used_are_named(
        self, node: RabbitMQServer, ours: dict[str, str], tmp_path: Path
    ) -> None:
        url = f"amqps://localhost:{node.tls_port}//"
        (tmp_path / "text").write_text("no certificate")
        for name in ("ca_certs", "certfile", "keyfile"):
            for path in (tmp_path / "missing", tmp_path / "text"):
                wrong = ours | {name: str(path)}
                with pytest.raises(ValueError, match=rf"{name}: '{path}' cannot be used"):
                    Connection(url, ssl=wrong).connect()

    def test_plain_to_a_node_that_speaks_tls(self, node: RabbitMQServer) -> None:
        url = f"amqp://127.0.0.1:{node.tls_port}//"
        with pytest.raises(OSError, match="speaks TLS here, which is amqps://"):
            Connection(url, connect_timeout=5).connect()

    def test_tls_to_a_node_that_speaks_none(
        self, node: RabbitMQServer, authority: Authority
    ) -> None:
        url = f"amqps://localhost:{node.port}//"
        with pytest.raises(OSError, match=r"TLS with .* failed.*does the server speak TLS"):
            Connection(url, ssl={"ca_certs": str(authority.ca)}, connect_timeout=5).connect()

    @pytest.mark.parametrize(
        ("name", "options", "why"),
        [
            ("expired", {"days": 0}, "[Ee]xpired"),
            ("elsewhere", {"hosts": ("DNS:else.where",)}, "not valid for name"),
        ],
    )
    def test_a_certificate_that_does_not_count(
        self, authority: Authority, name: str, options: dict[str, Any], why: str
    ) -> None:
        with tls_listener(authority.issue(name, **options)) as port:
            url = f"amqps://localhost:{port}//"
            with pytest.raises(OSError, match=why):
                Connection(url, ssl={"ca_certs": str(authority.ca)}, connect_timeout=5).connect()


@contextlib.contextmanager
def tls_listener(certificate: tuple[Path, Path]) -> Iterator[int]:
    """A listener with a certificate that shakes hands, and no more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with contextlib.suppress(OSError), client:
                        context.wrap_socket(client, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
