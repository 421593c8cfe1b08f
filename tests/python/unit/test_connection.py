"""Connections: what URLs mean, failover, retries, errors that help."""

from __future__ import annotations

import copy
import logging
import pickle
import socket
from time import monotonic

import pytest

from kombu_rs import Connection
from kombu_rs.exceptions import ConnectionError, OperationalError
from kombu_rs.mixins import ConsumerMixin
from kombu_rs.transport import TRANSPORT_ALIASES, _available, resolve_transport
from kombu_rs.transport.unavailable import TransportNotAvailable
from kombu_rs.transport.virtual import Transport as VirtualTransport


class Refusing(VirtualTransport):
    """Refuses the first ``refuse`` connections; remembers whom it was asked for."""

    recoverable_connection_errors = (OSError,)
    connection_errors = (OSError,)
    refuse = 10**6

    def establish_connection(self):
        cls = type(self)
        cls.asked.append(self.client.hostname)
        if len(cls.asked) <= cls.refuse:
            raise ConnectionRefusedError(111, "Connection refused")
        return super().establish_connection()


@pytest.fixture
def refusing():
    return type("Refusing", (Refusing,), {"asked": []})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://u%61:p%2Fw@h:1/v%2fh", ("h", 1, "ua", "p/w", "v/h")),
        ("amqp://", ("localhost", 5672, "guest", "guest", "/")),
        ("amqp://h//", ("h", 5672, "guest", "guest", "/")),
        ("h", ("h", 5672, "guest", "guest", "/")),
        ("", ("localhost", 5672, "guest", "guest", "/")),
        (None, ("localhost", 5672, "guest", "guest", "/")),
    ],
)
def test_parts_of_a_url(url, expected):
    info = Connection(url).info()
    parts = ("hostname", "port", "userid", "password", "virtual_host")
    assert tuple(info[p] for p in parts) == expected


def test_options_of_a_url():
    connection = Connection("amqp://h?heartbeat=3&connect_timeout=1.5")
    assert (connection.heartbeat, connection.connect_timeout) == (3.0, 1.5)


@pytest.mark.parametrize(
    "urls",
    [
        "amqp://a;amqp://b",
        ["amqp://a", "amqp://b"],
        ("amqp://a;amqp://b",),
        "amqp://a;amqp://b;",
    ],
)
def test_several_urls(urls):
    connection = Connection(urls)
    assert (connection.hostname, connection.alt) == ("a", ["amqp://a", "amqp://b"])
    connection.maybe_switch_next()
    assert connection.hostname == "b"


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        (
            "amqq://h",
            KeyError,
            r"No such transport: amqq.*Did you mean amqp\?.*Available: .*memory",
        ),
        ("zzz://h", KeyError, "No such transport: zzz.*Available: .*redis"),
        ("os.path://h", ValueError, "Invalid transport scheme: 'os.path'"),
        ("memory://a;os.path://h", ValueError, "Invalid transport scheme"),
        ("amqp://h?colour=red", TypeError, "URL option 'colour'.*heartbeat"),
        ("amqp://h:port/", ValueError, "port"),
        (
            "amqp://h?heartbeat=often",
            ValueError,
            "heartbeat must be a number of seconds, got 'often'",
        ),
        (7, TypeError, "a broker is a URL or host name"),
    ],
)
def test_what_cannot_be_understood(url, error, text):
    with pytest.raises(error, match=text):
        Connection(url)


def test_unknown_failover_strategy():
    with pytest.raises(ValueError, match=r"'random'.*round-robin, shuffle"):
        Connection("amqp://a;amqp://b", failover_strategy="random")


@pytest.mark.parametrize("name", ["qpid", "slmq"])
def test_transports_that_kombu_has_and_we_do_not(name):
    assert name not in _available()
    connection = Connection(f"{name}://u:secret@h/v")
    assert "secret" not in f"{connection!r}{connection.as_uri()}"
    with pytest.raises(TransportNotAvailable, match=f"'{name}' is not available.*memory") as error:
        connection.connect()
    assert isinstance(error.value, OperationalError)


def test_no_name_leads_to_another_package():
    assert {t.partition(":")[0].partition(".")[0] for t in TRANSPORT_ALIASES.values()} == {
        "kombu_rs"
    }


def test_transport_by_class_and_by_name(broker):
    assert resolve_transport(broker.Transport) is broker.Transport
    named = "kombu_rs.transport.virtual:Transport"
    assert resolve_transport(named) is VirtualTransport
    assert isinstance(Connection(transport=named).transport, VirtualTransport)


def test_password_is_masked():
    connection = Connection("amqp://u:secret@h/v")
    assert connection.as_uri() == "amqp://u:**@h:5672/v"
    assert connection.as_uri(include_password=True) == "amqp://u:secret@h:5672/v"
    assert "secret" not in repr(connection)


def test_password_as_a_function():
    connection = Connection("amqp://u@h", password=lambda: "secret")
    assert connection.as_uri() == "amqp://u:**@h:5672//"
    assert "u:secret@" in connection.as_uri(include_password=True)


def test_copies_are_equal():
    connection = Connection(
        "amqp://u:p@a/v;amqp://b", connect_timeout=2, heartbeat=3, transport_options={"x": 1}
    )
    for twin in (copy.copy(connection), connection.clone(), pickle.loads(pickle.dumps(connection))):
        assert twin.info() == connection.info()
        assert twin.__eqhash__() == connection.__eqhash__()
    assert connection.clone(hostname="c").hostname == "c"


def test_broker_that_is_not_there(refusing):
    connection = Connection(
        "h",
        port=77,
        userid="u",
        password="secret",
        transport=refusing,
        connect_timeout=0.2,
        transport_options={"interval_start": 0.05},
    )
    started = monotonic()
    with pytest.raises(OperationalError, match=r"h:77.*Connection refused") as error:
        connection.default_channel  # noqa: B018
    assert monotonic() - started < 2
    assert isinstance(error.value.__cause__, ConnectionRefusedError)
    assert "secret" not in str(error.value)


def test_failover_goes_round(refusing):
    refusing.refuse = 3
    connection = Connection(["a", "b"], transport=refusing)
    waited = []
    connection.ensure_connection(
        errback=lambda exc, interval: waited.append(interval), interval_start=0, interval_step=0
    )
    assert refusing.asked == ["a", "b", "a", "b"]
    assert connection.connected
    assert len(waited) == 3


def test_ensure_reconnects_and_revives(broker):
    connection = broker.connect()
    first = connection.default_channel
    revived = []

    class User:
        def revive(self, channel):
            revived.append(channel)

    calls = []

    def work():
        calls.append(None)
        if len(calls) == 1:
            raise ConnectionError("lost")
        return "done"

    assert connection.ensure(User(), work, max_retries=2)() == "done"
    assert revived == [connection.default_channel]
    assert revived[0] is not first


def test_ensure_gives_up(broker):
    connection = broker.connect()
    attempts = []

    def work():
        attempts.append(None)
        raise KeyError("again")

    with pytest.raises(KeyError):
        connection.ensure(connection, work, max_retries=2, retry_errors=(KeyError,))()
    assert len(attempts) == 3


def test_autoretry_hands_over_the_new_channel(broker):
    connection = broker.connect()
    channels = []

    def work(number, channel):
        channels.append(channel)
        if len(channels) == 1:
            raise ConnectionError("lost")
        return number

    result, channel = connection.autoretry(work, max_retries=3)(7)
    assert (result, channel) == (7, channels[1])
    assert channels[0] is not channels[1]


def test_close_and_open_again(connection):
    connection.connect()
    assert connection.connected
    connection.close()
    assert not connection.connected
    assert connection.connection is None
    assert connection.default_channel
    assert connection.connected


def test_timeout_of_drain_events(connection):
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.01)


def test_pool_replaces_what_failed(connection):
    pool = connection.Pool(limit=1)

    def fail():
        with pool.acquire() as pooled:
            pooled.connect()
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        fail()
    with pool.acquire() as again:
        assert not again.connected
        with pytest.raises(pool.LimitExceeded):
            pool.acquire()
    pickle.loads(pickle.dumps(type(again)))
    pool.force_close_all()


def test_pools_are_shared_by_equal_connections(broker):
    from kombu_rs import pools

    with_options = broker.connect(transport_options={"a": 1})
    try:
        assert pools.producers[broker.connect()] is pools.producers[broker.connect()]
        assert pools.producers[with_options] is not pools.producers[broker.connect()]
        with pools.producers[with_options].acquire(block=True) as producer:
            producer.publish({"n": 1}, routing_key="q")
        assert len(broker.queues["q"]) == 1
    finally:
        pools.reset()


def test_url_behind_a_prefix_is_the_transports_own():
    from kombu_rs.transport.redis import Transport

    connection = Connection("redis+socket:///tmp/r.sock?virtual_host=3")
    assert connection.transport_cls == "redis"
    assert connection.as_uri(include_password=True) == "redis+socket:///tmp/r.sock?virtual_host=3"
    assert Transport._url(connection) == "redis+socket:///tmp/r.sock?virtual_host=3"
    assert Connection("sqla+mysql://u:pw@h/d").as_uri() == "sqla+mysql://u:**@h/d"
    for twin in (connection.clone(), pickle.loads(pickle.dumps(connection))):
        assert twin.as_uri() == connection.as_uri()


def test_a_broker_that_is_not_there_is_not_asked_again_by_ensure(refusing):
    connection = Connection(
        "h",
        transport=refusing,
        connect_timeout=0.1,
        transport_options={"interval_start": 0.05, "interval_max": 0.05},
    )
    started = monotonic()
    with pytest.raises(OperationalError):
        connection.Producer().publish(
            {}, routing_key="q", retry=True, retry_policy={"max_retries": 50, "interval_start": 0}
        )
    assert monotonic() - started < 2


@pytest.mark.parametrize("name", _available())
def test_copies_are_like_the_original(name):
    """None of a clone's settings is made up: SQS without a host is Amazon's."""
    connection = Connection(f"{name}://u:p@" if "sqs" in name.lower() else f"{name}://h")
    settings = dict(connection._info(resolve=False))
    for other in (
        connection.clone(),
        copy.copy(connection),
        pickle.loads(pickle.dumps(connection)),
    ):
        assert dict(other._info(resolve=False)) == settings


def test_who_gives_up_connecting_does_not_begin_again():
    """The error is none of the transport's: what runs again after those must end."""

    class Worker(ConsumerMixin):
        connect_max_retries = 1

        def __init__(self, connection):
            self.connection = connection

        def get_consumers(self, consumer, channel):
            return []

    connection = Connection("redis://127.0.0.1:1", transport_options={"interval_start": 0})
    with pytest.raises(OperationalError) as raised:
        Worker(connection).run()
    assert not isinstance(raised.value, connection.connection_errors)
    with pytest.raises(connection.connection_errors):
        connection.connect()


def test_a_missing_host_is_told(caplog):
    assert Connection("redis://").info()["hostname"] == "localhost"
    assert caplog.record_tuples == [
        (
            "kombu.connection",
            logging.WARNING,
            "No hostname was supplied. Reverting to default 'localhost'",
        )
    ]
