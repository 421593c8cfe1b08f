"""The AMQP transport over py-amqp, without a broker."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import amqp
import pytest

from kombu_rs import Connection, exceptions, transport
from kombu_rs.transport import pyamqp
from kombu_rs.transport.base import rabbitmq_qos_matches_spec


@pytest.fixture(autouse=True)
def over_py_amqp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the names of AMQP lead to the transport over py-amqp."""
    for name, cls in (("amqp", "Transport"), ("pyamqp", "Transport"), ("amqps", "SSLTransport")):
        monkeypatch.setitem(transport.TRANSPORT_ALIASES, name, f"{pyamqp.__name__}:{cls}")
    monkeypatch.setattr(transport, "_transport_cache", {})


class Recorder:
    """Stands for py-amqp's connection: keeps what it was made with."""

    made: list[Recorder]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.made.append(self)

    def connect(self) -> None:
        self.connected = True

    def close(self) -> None:
        self.connected = False


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """Put in place of py-amqp's connection."""
    monkeypatch.setattr(Recorder, "made", [], raising=False)
    monkeypatch.setattr(pyamqp.Transport, "Connection", Recorder)
    return Recorder


def options_of(url: str, **kwargs: Any) -> dict[str, Any]:
    """What py-amqp is given for a connection."""
    return Connection(url, **kwargs).connect().options


@pytest.mark.parametrize(
    ("url", "given", "expected"),
    [
        ("amqp://", {}, {"host": "127.0.0.1:5672", "userid": "guest", "password": "guest"}),
        ("amqp://", {}, {"ssl": False, "heartbeat": 0, "login_method": "PLAIN"}),
        ("amqps://", {}, {"host": "127.0.0.1:5671", "ssl": True}),
        ("amqps://", {"ssl": {"ca_certs": "f"}}, {"ssl": {"ca_certs": "f"}}),
        ("amqp://", {"ssl": {"ca_certs": "f"}}, {"host": "127.0.0.1:5671"}),
        ("pyamqp://u:p%2F@h:1/v", {}, {"host": "h:1", "userid": "u", "password": "p/"}),
        ("pyamqp://h/%2Fv", {"heartbeat": 7}, {"virtual_host": "/v", "heartbeat": 7}),
        ("amqp://[::1]:77", {}, {"host": "[::1]:77"}),
        ("amqp://h", {"login_method": "EXTERNAL"}, {"login_method": "EXTERNAL"}),
        (
            "amqp://h",
            {"connect_timeout": 2, "transport_options": {"read_timeout": 3, "heartbeat": 9}},
            {"connect_timeout": 2, "read_timeout": 3, "heartbeat": 9},
        ),
    ],
)
def test_what_py_amqp_is_given(
    recorder: type[Recorder], url: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    options = options_of(url, **given)
    assert {name: options[name] for name in expected} == expected


def test_the_host_name_of_tls_follows_a_failover(recorder: type[Recorder]) -> None:
    options = {"server_hostname": None, "ca_certs": "f"}
    connection = Connection("amqps://one;amqps://two", ssl=options)
    for host in ("one", "two", "one"):
        link = connection.connect()
        assert link.options["ssl"] == {"server_hostname": host, "ca_certs": "f"}
        connection.maybe_switch_next()
    assert options["server_hostname"] is None


def test_a_password_that_is_a_function(recorder: type[Recorder]) -> None:
    secrets = iter(["first-secret", "second-secret"])
    connection = Connection("amqp://u@h", password=lambda: next(secrets))
    connection.connect()
    connection.close()
    connection.connect()
    assert [link.options["password"] for link in recorder.made] == ["first-secret", "second-secret"]
    assert "secret" not in repr(connection)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"product": "RabbitMQ", "version": "3.2.4"}, True),
        ({"product": "RabbitMQ", "version": "3.3.0"}, False),
        ({"product": "RabbitMQ", "version": "3.13.0-rc.1"}, False),
        ({"product": "RabbitMQ", "version": "4.0.0"}, True),
        ({"product": "RabbitMQ", "version": "from source"}, True),
        ({"product": "RabbitMQ", "version": b"3.8"}, True),
        ({"product": "Qpid", "version": "3.8.0"}, True),
        ({}, True),
    ],
)
def test_whether_global_qos_is_as_specified(properties: dict[str, Any], expected: bool) -> None:
    assert rabbitmq_qos_matches_spec(properties) is expected


@pytest.mark.parametrize("code", sorted(exceptions.ERROR_MAP))
def test_errors_of_py_amqp_become_ours(code: int) -> None:
    theirs = amqp.error_for_code(code, "the text", (50, 10), amqp.ChannelError)
    ours = exceptions.from_amqp(theirs)
    assert type(ours) is exceptions.ERROR_MAP[code]
    assert isinstance(ours, type(theirs))
    assert ours.args == theirs.args
    assert str(ours) == str(theirs)
    assert exceptions.from_amqp(ours) is ours


def test_other_errors_stay_what_they_are() -> None:
    class Own(amqp.NotFound):
        """What a program derives is the program's."""

    for error in (Own("x"), ValueError("x"), amqp.exceptions.MessageNacked()):
        assert exceptions.from_amqp(error) is error
    blocked = exceptions.from_amqp(amqp.exceptions.Blocked("x"))
    assert type(blocked) is exceptions.RecoverableConnectionError


def test_what_a_closed_link_raises() -> None:
    connection = pyamqp.Connection()
    channel = pyamqp.Channel(connection, 1)
    channel.collect()
    message = channel.prepare_message("x")
    for call in (
        lambda: channel.basic_ack(1),
        lambda: channel.basic_publish(message),
        lambda: channel.queue_declare("q"),
        lambda: channel.wait((50, 11)),
    ):
        with pytest.raises(exceptions.RecoverableConnectionError, match="closed") as raised:
            call()
        assert isinstance(raised.value, amqp.RecoverableConnectionError)
        assert isinstance(raised.value, Connection("amqp://").recoverable_connection_errors)


def test_messages_both_ways() -> None:
    channel = pyamqp.Channel(pyamqp.Connection(), 1)
    sent = channel.prepare_message(
        b"body", 5, "text/plain", "utf-8", {"h": 1}, {"correlation_id": "c"}
    )
    sent.delivery_info = {"delivery_tag": 7, "routing_key": "k"}
    got = channel.message_to_python(sent)
    assert (got.body, got.delivery_tag, got.channel) == (b"body", 7, channel)
    assert (got.content_type, got.content_encoding) == ("text/plain", "utf-8")
    assert (got.headers, got.properties["correlation_id"]) == ({"h": 1}, "c")
    assert got.properties["priority"] == 5
    assert got.payload == "body"


def test_options_of_queues() -> None:
    channel = pyamqp.Channel(pyamqp.Connection(), 1)
    assert channel.prepare_queue_arguments({"x-queue-type": "quorum"}, expires=1.5) == {
        "x-queue-type": "quorum",
        "x-expires": 1500,
    }


def test_what_it_says_of_itself() -> None:
    over_tls = Connection("amqps://").transport
    assert over_tls.client.ssl is True
    assert over_tls.driver_version() == amqp.__version__
    assert over_tls.supports_heartbeats
    assert over_tls.supports_ev


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.stdout.strip()


def test_without_py_amqp() -> None:
    said = run(
        "import sys; sys.modules['amqp'] = None\n"
        "from kombu_rs import Connection\n"
        "with Connection('memory://') as connection: connection.connect()\n"
        "assert Connection('amqp://').transport.driver_name == 'kombu-rs'\n"
        "try: Connection('amqp://', transport='kombu_rs.transport.pyamqp:Transport').connect()\n"
        "except ImportError as error: print(error)\n"
    )
    assert said == "the transport 'amqp' needs py-amqp: pip install 'kombu-rs[amqp]'"


def test_py_amqp_is_not_imported_by_others() -> None:
    assert run("import sys, kombu_rs; kombu_rs.Connection('memory://').connect()\n"
               "print('amqp' in sys.modules)") == "False"  # fmt: skip
