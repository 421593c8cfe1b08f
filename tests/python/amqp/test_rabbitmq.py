"""The AMQP transports on a real RabbitMQ: the native one, and the one over py-amqp."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest

from kombu_rs import Connection, Exchange, Producer, Queue, exceptions
from kombu_rs.asynchronous import Hub
from kombu_rs.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)
from servers.certificates import Authority
from servers.process import wait_until
from servers.proxy import FaultProxy
from servers.rabbitmq import RabbitMQServer

QUEUE = Queue("jobs", Exchange("jobs.exchange", type="topic"), routing_key="job.#")


@pytest.fixture(params=["amqp", "kombu_rs.transport.pyamqp:Transport"], ids=["native", "py-amqp"])
def connection(rabbitmq_url: str, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection to an empty virtual host."""
    with Connection(rabbitmq_url, transport=request.param, connect_timeout=5) as connection:
        yield connection


def publish(connection: Connection, body: Any, **options: Any) -> None:
    """Publishes to QUEUE, which is declared."""
    connection.Producer().publish(
        body, exchange=QUEUE.exchange, routing_key="job.new", declare=[QUEUE], **options
    )


def receive(connection: Connection, queue: Queue, count: int = 1) -> list[Any]:
    """Consumes and acknowledges `count` messages."""
    got: list[Any] = []

    def handle(message: Any) -> None:
        got.append(message)
        message.ack()

    with connection.Consumer([queue], on_message=handle, accept=["json", "text/plain"]):
        while len(got) < count:
            connection.drain_events(timeout=10)
    return got


def test_a_message_with_everything(connection: Connection) -> None:
    headers = {
        "text": "ä😀",
        "number": 2**40,
        "negative": -7,
        "half": 0.5,
        "yes": True,
        "nothing": None,
        "list": [1, ["x"]],
        "table": {"deep": {"er": 1}},
    }
    properties = {
        "correlation_id": "c",
        "reply_to": "answers",
        "message_id": "m",
        "app_id": "tests",
        "type": "greeting",
        "priority": 3,
        "delivery_mode": 2,
    }
    publish(connection, {"a": [1, "x"]}, headers=headers, expiration=60, **properties)
    (message,) = receive(connection, QUEUE)
    assert message.payload == {"a": [1, "x"]}
    assert message.headers == headers
    assert {name: message.properties[name] for name in properties} == properties
    assert message.properties["expiration"] == "60000"
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.delivery_info["exchange"] == "jobs.exchange"
    assert message.delivery_info["routing_key"] == "job.new"
    assert message.delivery_info["redelivered"] is False


@pytest.mark.parametrize("compression", ["zlib", "bzip2", "lzma"])
def test_compressed_bodies(connection: Connection, compression: str) -> None:
    publish(connection, "x" * 5000, compression=compression)
    (message,) = receive(connection, QUEUE)
    assert message.payload == "x" * 5000


def test_what_the_broker_says_about_itself(connection: Connection) -> None:
    link = connection.connect()
    assert link.server_properties["product"] == "RabbitMQ"
    # Kombu's rule: RabbitMQ 3 has a rule of its own, 4 has AMQP's.
    is_3 = link.server_properties["version"].startswith("3.")
    assert connection.qos_semantics_matches_spec is not is_3
    assert connection.supports_exchange_type("headers")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_requeued_and_rejected(connection: Connection, kind: str) -> None:
    dead = Queue("dead", routing_key="dead")
    queue = Queue(
        "work",
        routing_key="work",
        queue_arguments={
            "x-queue-type": kind,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "dead",
        },
    )
    bound = queue(connection.default_channel)
    bound.declare()
    dead(connection.default_channel).declare()
    Producer(connection).publish("x", routing_key="work")
    first = wait_until(bound.get)
    assert not first.delivery_info["redelivered"]
    first.requeue()
    second = wait_until(bound.get)
    assert second.delivery_info["redelivered"]
    second.reject()
    (message,) = receive(connection, dead)
    assert message.headers["x-death"][0]["queue"] == "work"


def test_an_error_of_a_channel_closes_it_alone(connection: Connection) -> None:
    """It is caught under our name and under py-amqp's."""
    channel = connection.channel()
    other = connection.channel()
    with pytest.raises(exceptions.NotFound, match=r"\(404\) NOT_FOUND - no queue") as raised:
        channel.queue_declare("nowhere", passive=True)
    assert isinstance(raised.value, amqp.NotFound)
    assert isinstance(raised.value, exceptions.ChannelError)
    assert isinstance(raised.value, connection.channel_errors)
    assert raised.value.method_name == "Queue.declare"
    other.queue_declare("somewhere")
    with pytest.raises(exceptions.PreconditionFailed, match="inequivalent arg"):
        other.queue_declare("somewhere", durable=True, auto_delete=False)
    assert connection.connected


def test_a_wrong_password(rabbitmq_server: RabbitMQServer) -> None:
    url = f"amqp://guest:do-not-show@localhost:{rabbitmq_server.port}//"
    with pytest.raises(exceptions.AccessRefused, match="ACCESS_REFUSED") as raised:
        Connection(url).connect()
    assert "do-not-show" not in str(raised.value)


def test_a_virtual_host_that_is_not_there(rabbitmq_server: RabbitMQServer) -> None:
    with pytest.raises(exceptions.ConnectionError, match="vhost nowhere not found"):
        Connection(rabbitmq_server.url("nowhere")).connect()


def test_nobody_listens(rabbitmq_server: RabbitMQServer) -> None:
    connection = Connection("amqp://u:do-not-show@127.0.0.1:1", connect_timeout=2)
    with pytest.raises(
        exceptions.OperationalError, match=r"cannot connect to 127.0.0.1:1"
    ) as raised:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    assert "do-not-show" not in str(raised.value)


def test_confirms(rabbitmq_url: str) -> None:
    """What the broker refuses is an error of its publish."""
    full = Queue(
        "full", routing_key="full", max_length=1, queue_arguments={"x-overflow": "reject-publish"}
    )
    options = {"confirm_publish": True}
    with Connection(rabbitmq_url, transport_options=options) as connection:
        producer = connection.Producer()
        producer.publish("first", routing_key="full", declare=[full])
        with pytest.raises(amqp.exceptions.MessageNacked):
            producer.publish("second", routing_key="full")
        with pytest.raises(exceptions.NotFound, match="no exchange 'nowhere'"):
            producer.publish("third", exchange="nowhere", routing_key="full")


def test_a_returned_message(connection: Connection) -> None:
    returned: list[Any] = []
    producer = connection.Producer(on_return=lambda *facts: returned.append(facts))
    producer.publish("x", routing_key="nobody", mandatory=True)
    connection.drain_events(timeout=10)
    ((error, exchange, routing_key, message),) = returned
    assert (error.reply_code, exchange, routing_key) == (312, "", "nobody")
    assert message.body == "x"


def test_a_consumer_that_the_broker_cancels(connection: Connection) -> None:
    with connection.Consumer([QUEUE], callbacks=[print]):
        with connection.clone() as another:
            QUEUE(another.channel()).delete()
        with pytest.raises(exceptions.ConsumerCancelled) as raised:
            connection.drain_events(timeout=10)
    assert isinstance(raised.value, amqp.ConsumerCancelled)
    assert isinstance(raised.value, connection.recoverable_connection_errors)


def test_a_connection_that_an_operator_closes(
    connection: Connection, rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str
) -> None:
    connection.connect()
    rabbitmq_server.drop_clients(rabbitmq_vhost)
    with pytest.raises(exceptions.ConnectionForced, match="CONNECTION_FORCED") as raised:
        connection.drain_events(timeout=10)
    assert isinstance(raised.value, amqp.ConnectionForced)
    publish(connection, "after it", retry=True)
    assert receive(connection, QUEUE)[0].payload == "after it"


def test_a_connection_that_breaks(
    rabbitmq_server: RabbitMQServer,
    rabbitmq_vhost: str,
    new_proxy: Callable[[int], FaultProxy],
) -> None:
    proxy = new_proxy(rabbitmq_server.port)
    url = f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}"
    # Confirmed: otherwise a message may be lost on its way through the link that is cut.
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        publish(connection, 1)
        for n, fault in enumerate([proxy.cut, proxy.reset], start=2):
            lost = connection.connection
            fault()
            with pytest.raises(connection.recoverable_connection_errors):
                connection.drain_events(timeout=10)
            publish(connection, n, retry=True)
            assert connection.connection is not lost
            assert not lost.connected
        assert [m.payload for m in receive(connection, QUEUE, 3)] == [1, 2, 3]


def test_heartbeats(
    rabbitmq_server: RabbitMQServer,
    rabbitmq_vhost: str,
    new_proxy: Callable[[int], FaultProxy],
) -> None:
    """A broker that falls silent is noticed, and one that talks is not given up."""
    proxy = new_proxy(rabbitmq_server.port)
    url = f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}"

    def check(connection: Connection) -> bool:
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.2)
        connection.heartbeat_check()
        return False

    with Connection(url, heartbeat=1) as connection:
        connection.connect()
        assert connection.get_heartbeat_interval() == 1
        end = time.monotonic() + 3
        while time.monotonic() < end:
            check(connection)
        proxy.blackhole()
        with pytest.raises(exceptions.RecoverableConnectionError, match="no sign of life"):
            wait_until(lambda: check(connection), 10, "an error")
        connection.collect()
        proxy.reset()


def test_an_event_loop(connection: Connection) -> None:
    got: list[Any] = []

    def handle(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    hub = Hub()
    with connection.Consumer([QUEUE], callbacks=[handle], prefetch_count=2):
        connection.register_with_event_loop(hub)
        for n in range(20):
            publish(connection, n)
        wait_until(lambda: hub.run_once() or len(got) == 20, 10, "all messages")
    hub.close()
    assert got == list(range(20))


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_native_delayed_delivery(connection: Connection, kind: str) -> None:
    declare_native_delayed_delivery_exchanges_and_queues(connection, kind)
    QUEUE(connection.default_channel).declare()
    bind_queue_to_native_delayed_delivery_exchange(connection, QUEUE)
    sent = time.monotonic()
    connection.Producer().publish(
        "later", exchange=level_name(27), routing_key=calculate_routing_key(1, "job.new")
    )
    (message,) = receive(connection, QUEUE)
    assert message.payload == "later"
    assert time.monotonic() - sent >= 1


class TestTLS:
    """The node has a certificate for localhost by the tests' authority."""

    @pytest.fixture
    def url(self, rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str) -> str:
        return rabbitmq_server.url(rabbitmq_vhost, tls=True)

    def test_the_right_authority(self, url: str, authority: Authority) -> None:
        options = {"ca_certs": str(authority.ca), "cert_reqs": ssl.CERT_REQUIRED}
        for name in ({}, {"server_hostname": None}, {"server_hostname": "localhost"}):
            with Connection(url, ssl=options | name, connect_timeout=5) as connection:
                publish(connection, 1)
                assert receive(connection, QUEUE)[0].payload == 1

    def test_an_unknown_authority(self, url: str, tmp_path: Path) -> None:
        other = Authority(tmp_path / "other", name="somebody else")
        for options in (True, {"ca_certs": str(other.ca)}):
            with pytest.raises(OSError, match="UnknownIssuer"):
                Connection(url, ssl=options, connect_timeout=5).connect()

    def test_another_host(self, url: str, authority: Authority) -> None:
        options = {"ca_certs": str(authority.ca), "server_hostname": "example.com"}
        with pytest.raises(OSError, match=r'not valid for name "example\.com"'):
            Connection(url, ssl=options, connect_timeout=5).connect()

    def test_a_plain_listener(self, rabbitmq_server: RabbitMQServer) -> None:
        url = rabbitmq_server.url().replace("amqp:", "amqps:")
        with pytest.raises(OSError, match=r"TLS with localhost:\d+ failed"):
            Connection(url, connect_timeout=5).connect()
