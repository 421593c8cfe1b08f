"""What the native AMQP transport has of py-amqp's, on a real RabbitMQ."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any
from unittest import mock

import amqp
import pytest

from kombu_rs import Connection, exceptions
from kombu_rs.transport.amqp import BasicMessage, Channel
from kombu_rs.transport.amqp import Connection as Link
from servers.process import wait_until
from servers.rabbitmq import RabbitMQServer

#: Methods that programs call on channels of py-amqp.
METHODS = (
    *("basic_ack", "basic_cancel", "basic_consume", "basic_get", "basic_publish"),
    *("basic_publish_confirm", "basic_qos", "basic_recover", "basic_recover_async"),
    *("basic_reject", "close", "collect", "confirm_select", "exchange_bind", "exchange_declare"),
    *("exchange_delete", "exchange_unbind", "flow", "open", "queue_bind", "queue_declare"),
    *("queue_delete", "queue_purge", "queue_unbind", "tx_commit", "tx_rollback", "tx_select"),
)


@pytest.fixture
def connection(rabbitmq_url: str) -> Iterator[Connection]:
    """A connection to an empty virtual host."""
    with Connection(rabbitmq_url, connect_timeout=5) as connection:
        yield connection


@pytest.fixture
def channel(connection: Connection) -> Any:
    """A channel of it."""
    return connection.channel()


def ready(channel: Any, queue: str) -> int:
    """How many messages are ready in a queue."""
    return channel.queue_declare(queue, passive=True).message_count


def get(channel: Any, queue: str) -> Any:
    """The next message of a queue, when there is one."""
    return wait_until(lambda: channel.basic_get(queue), 10, f"a message in {queue}")


@pytest.mark.parametrize("method", METHODS)
def test_the_arguments_are_those_of_py_amqp(method: str) -> None:
    """By name, order and default; `basic_qos` has defaults for all."""
    theirs = inspect.signature(getattr(amqp.Channel, method)).parameters
    ours = inspect.signature(getattr(Channel, method)).parameters
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        if parameter.default is not inspect.Parameter.empty:
            assert ours[name].default == parameter.default, name


def test_values_of_all_types_come_back_as_from_py_amqp(channel: Any, rabbitmq_url: str) -> None:
    headers = {
        "date": datetime(2020, 1, 2, 3, 4, 5),
        "money": Decimal("1.25"),
        "bytes": b"\xff\x00",
        "big": 2**40,
        "table": {"list": [1, "x", None, {"yes": True}], "half": 0.5},
    }
    properties = {
        "delivery_mode": 1,
        "correlation_id": "c",
        "expiration": "60000",
        "timestamp": 1577934245,
        "app_id": "tests",
    }
    channel.queue_declare("all")
    message = channel.prepare_message("ä", 3, "text/plain", "utf-8", headers, properties)
    channel.basic_publish(message, routing_key="all")
    # py-amqp knows no byte arrays, which is what bytes are in AMQP.
    bytes_for_all = amqp.Message("ä", application_headers=headers, **properties)
    channel.basic_publish(bytes_for_all, routing_key="all")
    ours, theirs = get(channel, "all"), get(channel, "all")
    for got in (ours, theirs):
        assert got.headers == headers
        assert got.properties["application_headers"] == headers
        assert properties.items() <= got.properties.items()
        assert got.body == "ä"
    assert ours.properties["priority"] == 3
    assert ours.delivery_info == {
        "delivery_tag": 1,
        "redelivered": False,
        "exchange": "",
        "routing_key": "all",
        "message_count": 1,
    }
    assert (ours.delivery_tag, theirs.delivery_tag) == (1, 2)


def test_py_amqp_reads_what_we_write(
    channel: Any, rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str
) -> None:
    headers = {
        "date": datetime(2020, 1, 2, 3, 4, 5),
        "money": Decimal("1.25"),
        "table": {"list": [1, "x", None], "half": 0.5},
    }
    properties = {"priority": 4, "timestamp": 1577934245, "reply_to": "r", "type": "t"}
    channel.queue_declare("shared")
    message = BasicMessage("ä", application_headers=headers, **properties)
    channel.basic_publish(message, routing_key="shared")
    host = f"127.0.0.1:{rabbitmq_server.port}"
    with amqp.Connection(host, virtual_host=rabbitmq_vhost) as theirs:
        got = get(theirs.channel(), "shared")
    assert got.body == "ä"
    assert got.headers == headers
    assert properties.items() <= got.properties.items()


def test_a_body_that_is_no_text_stays_bytes(channel: Any) -> None:
    channel.queue_declare("raw")
    for encoding in (None, "binary", "utf-8", "no such codec"):
        message = channel.prepare_message(b"\xff", content_encoding=encoding)
        channel.basic_publish(message, routing_key="raw")
        assert get(channel, "raw").body == b"\xff"
    channel.basic_publish(channel.prepare_message("ä", content_encoding="latin-1"), "", "raw")
    assert get(channel, "raw").body == "ä"


def test_a_channel_opens_again_after_an_error(connection: Connection, channel: Any) -> None:
    """And what it had delivered before is not mistaken for what it delivers then."""
    channel.queue_declare("work", auto_delete=False)
    for n in range(2):
        channel.basic_publish(channel.prepare_message(str(n)), routing_key="work")
    old = get(channel, "work")
    for _ in range(2):
        with pytest.raises(exceptions.NotFound, match="no queue 'nowhere'") as raised:
            channel.queue_declare("nowhere", passive=True)
        assert raised.value.method_sig == (50, 10)
        assert channel.is_open
    new = [get(channel, "work") for _ in range(2)]
    assert old.body in [message.body for message in new]
    assert old.delivery_tag not in [message.delivery_tag for message in new]
    old.ack()  # dropped: the broker has it back
    new[1].ack()
    channel.close()
    another = connection.channel()
    wait_until(lambda: ready(another, "work") == 1, 10, "the other one to be back")


def test_a_channel_opens_again_with_its_limit_and_its_confirms(channel: Any) -> None:
    channel.confirm_select()
    channel.basic_qos(0, 7, False)
    with pytest.raises(exceptions.NotFound, match="no exchange 'nowhere'"):
        channel.basic_publish(channel.prepare_message("x"), exchange="nowhere")
    assert channel._credit() == (0, 7)
    with pytest.raises(exceptions.NotFound, match="no exchange 'nowhere'"):
        channel.basic_publish(channel.prepare_message("x"), exchange="nowhere")


def test_an_error_that_nobody_waited_for(connection: Connection, channel: Any) -> None:
    """Without confirms it is told to whoever waits for messages."""
    channel.basic_publish(channel.prepare_message("x"), exchange="nowhere")
    with pytest.raises(exceptions.NotFound, match="no exchange 'nowhere'"):
        connection.drain_events(timeout=10)
    assert channel.queue_declare("after it").queue == "after it"


def test_exchanges_of_exchanges(channel: Any) -> None:
    for name in ("source", "target"):
        channel.exchange_declare(name, "fanout", auto_delete=False)
    channel.queue_declare("end")
    channel.queue_bind("end", "target")
    channel.exchange_bind("target", "source")
    channel.basic_publish(channel.prepare_message("through"), "source")
    assert get(channel, "end").body == "through"
    channel.exchange_unbind("target", "source")
    channel.confirm_select()
    channel.basic_publish(channel.prepare_message("nowhere"), "source")
    assert ready(channel, "end") == 0
    # RabbitMQ 3 ends the connection for it, 4 the channel.
    is_3 = channel.connection.server_properties["version"].startswith("3.")
    kind = exceptions.InvalidCommand if is_3 else exceptions.PreconditionFailed
    with pytest.raises(kind, match="unknown exchange type") as raised:
        channel.exchange_declare("odd", "x-unheard-of")
    assert raised.value.reply_code == (503 if is_3 else 406)


def test_transactions(channel: Any) -> None:
    channel.queue_declare("tx")
    channel.tx_select()
    for body, end in (("no", channel.tx_rollback), ("yes", channel.tx_commit)):
        channel.basic_publish(channel.prepare_message(body), routing_key="tx")
        end()
    assert get(channel, "tx").body == "yes"
    assert channel.basic_get("tx") is None


def test_a_cancelled_consumer_is_told_to_its_callback(connection: Connection, channel: Any) -> None:
    cancelled: list[str] = []
    channel.queue_declare("gone", auto_delete=False)
    tag = channel.basic_consume("gone", callback=print, on_cancel=cancelled.append)
    connection.channel().queue_delete("gone")
    connection.drain_events(timeout=10)
    assert cancelled == [tag]


def test_an_exclusive_consumer(connection: Connection, channel: Any) -> None:
    channel.queue_declare("mine", auto_delete=False)
    channel.basic_consume("mine", exclusive=True, callback=print)
    with pytest.raises(exceptions.AccessRefused, match="exclusive"):
        connection.channel().basic_consume("mine", callback=print)


def test_a_message_that_comes_back_is_an_error_of_its_confirmed_publish(channel: Any) -> None:
    returned: list[Any] = []
    message = channel.prepare_message("x")
    with pytest.raises(exceptions.ChannelError) as raised:
        channel.basic_publish_confirm(message, routing_key="nobody", mandatory=True)
    assert raised.value.reply_code == 312
    channel.events["basic_return"].add(lambda *facts: returned.append(facts))
    channel.basic_publish_confirm(message, routing_key="nobody", mandatory=True)
    assert [(error.reply_code, key, got) for error, _, key, got in returned] == [
        (312, "nobody", message)
    ]


def test_paused_deliveries(connection: Connection, channel: Any) -> None:
    got: list[Any] = []
    channel.queue_declare("slow")
    channel.basic_consume("slow", no_ack=True, callback=got.append)
    assert channel.flow(False) is False
    channel.basic_publish_confirm(channel.prepare_message("x"), routing_key="slow")
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.2)
    channel.flow(True)
    connection.drain_events(timeout=10)
    assert [message.body for message in got] == ["x"]


def test_what_brokers_do_not_have_is_named(channel: Any) -> None:
    for call, why in (
        (lambda: channel.basic_recover(), "requeue=True"),
        (lambda: channel.basic_qos(100, 0, False), "prefetch_size must be 0"),
    ):
        with pytest.raises(exceptions.AMQPNotImplementedError, match=why):
            call()
    with pytest.raises(ValueError, match="immediate=True"):
        channel.basic_publish(channel.prepare_message("x"), immediate=True)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"hartbeat": 1}, "'?hartbeat'?"),
        ({"login_method": "KERBEROS"}, "login_method"),
        ({"authentication": [object()]}, "authentication is not supported"),
        ({"locale": "de_DE"}, "locale must be 'en_US'"),
        ({"socket_settings": {1000: 1}}, "socket_settings"),
        ({"ssl": {"ciphers": "ALL"}}, "ciphers"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Link(**options)


def test_options_reach_the_broker(rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str) -> None:
    seen: list[Any] = []
    options = {
        "client_properties": {"connection_name": "one of the tests"},
        "login_method": "AMQPLAIN",
        "channel_max": 7,
        "frame_max": 8192,
        "socket_settings": {socket.TCP_KEEPIDLE: 5, socket.TCP_USER_TIMEOUT: 9000},
        "on_open": seen.append,
    }
    url = rabbitmq_server.url(rabbitmq_vhost)
    with Connection(url, heartbeat=7, transport_options=options) as connection:
        link = connection.connect()
        assert seen == [link]
        assert (link.heartbeat, link.channel_max, link.frame_max) == (7, 7, 8192)
        (facts,) = wait_until(
            lambda: rabbitmq_server.api("GET", f"vhosts/{rabbitmq_vhost}/connections"),
            30,
            "the connection to be listed",
        )
        assert facts["client_properties"]["connection_name"] == "one of the tests"
        assert facts["client_properties"]["product"] == "kombu-rs"
        assert (facts["timeout"], facts["channel_max"], facts["auth_mechanism"]) == (
            7,
            7,
            "AMQPLAIN",
        )
        channels = [link.channel() for _ in range(7)]
        with pytest.raises(exceptions.ConnectionLimitExceeded, match="channel_max"):
            link.channel()
        channels[0].close()
        assert link.channel().is_open


def test_a_closed_connection_stays_closed(connection: Connection, channel: Any) -> None:
    link = connection.connect()
    link.close()
    assert not link.connected
    assert channel.connection is None
    for use in (link.channel, link.drain_events, lambda: channel.queue_declare("x")):
        with pytest.raises(exceptions.RecoverableConnectionError, match=r"closed|lost"):
            use()


def test_a_drain_events_of_ones_own_is_called(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it: the transport, the link, or their classes."""
    transport, link = connection.transport, connection.connection
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.01)
    for owner in (type(transport), type(link), transport, link):
        own = mock.Mock()
        with monkeypatch.context() as patch:
            patch.setattr(owner, "drain_events", own)
            connection.drain_events(timeout=0.01)
        assert own.call_args.kwargs == {"timeout": 0.01}, owner
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.01)


def test_a_batch_waits_for_all_confirms_together(rabbitmq_url: str) -> None:
    options = {"confirm_publish": True}
    with Connection(rabbitmq_url, transport_options=options) as connection:
        producer = connection.Producer()
        channel = producer.channel
        channel.queue_declare("many")
        with producer.batch():
            for n in range(3000):
                producer.publish(n, routing_key="many")
        assert ready(channel, "many") == 3000
        failing = pytest.raises(exceptions.BatchPublishError, match="no exchange 'nowhere'")
        with failing, producer.batch():
            producer.publish(1, exchange="nowhere", routing_key="many")


def test_pooled_connections_hear_of_a_lost_link_before_they_are_used(
    connection: Connection, rabbitmq_server: RabbitMQServer, rabbitmq_vhost: str
) -> None:
    link = connection.connect()
    rabbitmq_server.drop_clients(rabbitmq_vhost)
    wait_until(lambda: not link.connected, 10, "the loss to be known")
    connection.channel().queue_declare("x")
    assert connection.connection is not link
