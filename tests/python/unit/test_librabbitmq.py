"""The transport over the C client, with a double of the client: it builds on old Pythons alone."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import pytest

from kombu_rs import Connection
from kombu_rs.transport import supports_librabbitmq

NAME = "kombu_rs.transport.librabbitmq"


class ClientChannel:
    """The client's channel."""

    def __init__(self, connection: Any, channel_id: int) -> None:
        self.connection = connection
        self.channel_id = channel_id

    def basic_consume(
        self, queue: str = "", consumer_tag: str | None = None, callback: Any = None
    ) -> tuple[Any, ...]:
        return queue, consumer_tag, callback


class ClientConnection:
    """The client's connection."""

    Channel = ClientChannel
    server_properties: dict[str, str]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.connected = True
        self.channels: dict[int, Any] = {}
        self.callbacks: dict[int, Any] = {}
        self.read_end, self.write_end = os.pipe()

    def fileno(self) -> int:
        return self.read_end

    def channel(self) -> Any:
        number = len(self.channels) + 1
        self.channels[number] = self.Channel(self, number)
        return self.channels[number]

    def drain_events(self, timeout: float | None = None) -> None:
        raise TimeoutError

    def close(self) -> None:
        self.connected = False


@pytest.fixture
def librabbitmq(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A double of the client's module."""
    client: Any = ModuleType("librabbitmq")
    client.__version__ = "2.0.0"
    client.Channel, client.Connection = ClientChannel, ClientConnection
    client.ConnectionError = type("ConnectionError", (Exception,), {})
    client.ChannelError = type("ChannelError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "librabbitmq", client)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield client
    sys.modules.pop(NAME, None)


@pytest.fixture
def transport_cls(librabbitmq: ModuleType) -> Any:
    """Our transport on the double."""
    from kombu_rs.transport.librabbitmq import Transport

    return Transport


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librabbitmq", None)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    with pytest.raises(ImportError, match=r"needs the C client librabbitmq.*use amqp:// instead"):
        Connection("amqp://", transport=f"{NAME}:Transport")


@pytest.mark.parametrize("name", ["amqp", "librabbitmq"])
def test_urls_do_not_depend_on_it(librabbitmq: ModuleType, name: str) -> None:
    assert not supports_librabbitmq()
    connection = Connection(f"{name}://")
    assert connection.transport_cls == name
    assert connection.transport.driver_name == "kombu-rs"


def test_connecting(transport_cls: Any) -> None:
    connection = Connection(
        "u@h/v", transport=transport_cls, password=lambda: "p", transport_options={"frame_max": 7}
    )
    connection.hostname, connection.userid, connection.virtual_host = "h", "u", "v"
    options = connection.connect().options
    assert options["host"] == "h:5672"
    assert (options["userid"], options["password"]) == ("u", "p")
    assert (options["virtual_host"], options["frame_max"]) == ("v", 7)
    assert connection.connected
    assert connection.transport.driver_version() == "2.0.0"
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0)


def test_no_tls(transport_cls: Any) -> None:
    with pytest.raises(NotImplementedError, match=r"ssl not supported.*pyamqp://"):
        Connection("h", transport=transport_cls, ssl=True).connect()


def test_giving_up_a_link(transport_cls: Any) -> None:
    connection = Connection("h", transport=transport_cls)
    link = connection.connect()
    channel = connection.channel()
    connection.collect()
    assert channel.connection is None
    assert not link.channels
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(link.read_end)
    os.close(link.write_end)


def test_messages_both_ways(transport_cls: Any) -> None:
    channel = Connection("h", transport=transport_cls).channel()
    body, properties = channel.prepare_message(
        b"x", 3, "text/plain", "utf-8", {"h": 1}, {"reply_to": "r"}
    )
    message = channel.Message(channel, properties, {"delivery_tag": 5}, body)
    assert (message.payload, message.delivery_tag, message.headers) == ("x", 5, {"h": 1})
    assert (message.properties["reply_to"], message.properties["priority"]) == ("r", 3)
    assert channel.prepare_message(b"x")[1].keys() == {
        "content_type",
        "content_encoding",
        "headers",
    }


def test_a_consumer(transport_cls: Any) -> None:
    """The client knows no `on_cancel`, which every consumer gives."""
    channel = Connection("h", transport=transport_cls).channel()
    assert channel.basic_consume("q", "t", callback=len, on_cancel=print) == ("q", "t", len)


def test_options_of_queues_are_bytes(transport_cls: Any) -> None:
    channel = Connection("h", transport=transport_cls).channel()
    arguments = channel.prepare_queue_arguments({"a": 1, b"b": 2}, expires=3)
    assert arguments == {b"a": 1, b"b": 2, b"x-expires": 3000}


def test_whether_global_qos_is_as_specified(transport_cls: Any) -> None:
    connection = Connection("h", transport=transport_cls)
    link = connection.connect()
    with pytest.warns(UserWarning, match="librabbitmq version too old"):
        assert connection.qos_semantics_matches_spec
    link.server_properties = {"product": "RabbitMQ", "version": "3.10.8"}
    assert not connection.qos_semantics_matches_spec
