"""The layer for transports that users write in Python."""

from __future__ import annotations

import io
import os
import warnings

import pytest

from kombu_rs import Exchange, Queue
from kombu_rs.exceptions import ChannelError, ResourceError
from kombu_rs.transport import virtual
from kombu_rs.transport.base import Implements, Transport, to_rabbitmq_queue_arguments
from kombu_rs.transport.virtual.exchange import TopicExchange


@pytest.fixture
def connection(broker):
    return broker.connect()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a.*", ["a.b"], ["a", "a.b.c", "xa.b"]),
        ("a.#", ["a.b", "a.b.c"], ["b.a"]),
        ("#", ["", "a", "a.b"], []),
        ("a+b.c", ["a+b.c"], ["aab.c", "a+bxc"]),
        ("a*.b", ["a*.b"], ["aa.b"]),
    ],
)
def test_topics(pattern, yes, no):
    exchange = TopicExchange(None)
    table = [exchange.prepare_bind("q", "e", pattern, None)]
    for key in yes:
        assert exchange.lookup(table, "e", key, None) == {"q"}, key
    for key in no:
        assert exchange.lookup(table, "e", key, None) == set(), key


def test_each_queue_gets_a_message_once(broker, channel):
    topic = Exchange("t", "topic")
    queue = Queue("q", bindings=[topic.binding("a.*"), topic.binding("#")])(channel)
    queue.declare()
    channel.Producer().publish("x", exchange=topic, routing_key="a.b")
    assert len(broker.queues["q"]) == 1


def test_a_channel_that_cannot_be_opened_keeps_no_id(broker, connection):
    class Failing(broker.Transport.Channel):
        def __init__(self, connection):
            super().__init__(connection)
            raise OSError("no broker")

    transport = connection.transport
    used = len(transport._used_channel_ids)
    transport.Channel = Failing
    with pytest.raises(OSError, match="no broker"):
        transport.create_channel(transport)
    assert len(transport._used_channel_ids) == used


def test_bindings_come_and_go(broker, channel):
    queue = Queue("q", Exchange("e"), "k")(channel)
    queue.declare()
    queue.queue_bind()
    assert list(channel.list_bindings()) == [("q", "e", "k")]
    queue.queue_unbind()
    assert list(channel.list_bindings()) == []
    queue.queue_bind()
    queue.delete()
    assert not broker.state.bindings


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (lambda c: c.exchange_declare("nope", passive=True), "no exchange 'nope'"),
        (lambda c: c.queue_bind("q", "nope", "k"), "no exchange 'nope'"),
        (
            lambda c: (c.exchange_declare("odd", "odd"), c.queue_bind("q", "odd", "k")),
            "unknown type 'odd'.*direct",
        ),
    ],
)
def test_channel_errors(channel, what, text):
    with pytest.raises(ChannelError, match=text):
        what(channel)


def test_exchange_with_other_settings(channel):
    channel.exchange_declare("e", "direct")
    channel.exchange_declare("e", "direct")
    with pytest.raises(virtual.NotEquivalentError, match="Cannot redeclare exchange 'e'"):
        channel.exchange_declare("e", "topic")


def test_undeliverable_messages(broker):
    channel = broker.connect(transport_options={"deadletter_queue": "dead"}).channel()
    channel.exchange_declare("e")
    with pytest.warns(virtual.UndeliverableWarning, match="exchange 'e' using binding key 'k'"):
        channel.Producer().publish("x", exchange="e", routing_key="k")
    assert len(broker.queues["dead"]) == 1


def test_unknown_body_encoding(broker):
    channel = broker.connect(transport_options={"body_encoding": "rot13"}).channel()
    with pytest.raises(ValueError, match=r"unknown body_encoding 'rot13'.*base64"):
        channel.Producer().publish("x", routing_key="q")


def test_closing_puts_messages_back(broker, connection):
    channel = connection.channel()
    channel.do_restore = True
    producer = channel.Producer()
    for n in range(3):
        producer.publish(n, routing_key="q")
    messages = [channel.basic_get("q") for _ in range(3)]
    messages[1].ack()
    channel.close()
    assert {m["redelivered"] for m in broker.queues["q"]} == {True}
    other = connection.channel()
    assert [other.basic_get("q").payload for _ in range(2)] == [2, 0]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_parents_deliveries_alone(broker, connection):
    channel = connection.channel()
    channel.do_restore = True
    for n in range(3):
        channel.Producer().publish(n, routing_key="q")
    messages = [channel.basic_get("q") for _ in range(2)]
    messages[0].ack()  # noted, and not taken out yet
    pid = os.fork()
    if pid == 0:
        # Not through pytest's exits.
        try:
            ledger = channel.qos
            fine = not ledger._delivered and ledger._in_use() == 0
            channel.basic_recover(requeue=True)
            fine = fine and len(broker.queues["q"]) == 1
            # What it receives itself goes back, once.
            fine = fine and channel.basic_get("q").payload == 2 and not broker.queues["q"]
            channel.close()
            os._exit(0 if fine and len(broker.queues["q"]) == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    channel.qos._flush()
    assert list(channel.qos._delivered) == [messages[1].delivery_tag]
    channel.close()
    assert len(broker.queues["q"]) == 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_puts_its_own_deliveries_back_at_its_end(connection):
    channel = connection.channel()
    parents = channel.qos._on_collect
    pid = os.fork()
    if pid == 0:
        own = channel.qos._on_collect
        fine = own is not parents and own.still_active() and not parents.still_active()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert channel.qos._on_collect is parents
    assert parents.still_active()


def test_what_cannot_be_put_back_is_written_down(connection, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    channel = connection.channel()
    channel.do_restore = True
    channel.Producer().publish("precious", routing_key="q")
    channel.basic_get("q")
    channel._put = None
    stderr = io.StringIO()
    channel.qos.restore_unacked_once(stderr=stderr)
    assert "UNABLE TO RESTORE 1 MESSAGES" in stderr.getvalue()
    assert len(list(tmp_path.iterdir())) == 1
    channel.qos.restore_unacked_once(stderr=stderr)
    assert len(list(tmp_path.iterdir())) == 1


def test_message_for_a_consumer_that_has_gone(broker, connection):
    channel = connection.default_channel
    channel.Producer().publish("x", routing_key="q")
    raw = broker.queues["q"].popleft()
    connection.transport._deliver(raw, "q")
    assert len(broker.queues["q"]) == 1


def test_multiple_acknowledges_those_before(channel):
    for n in range(3):
        channel.Producer().publish(n, routing_key="q")
    messages = [channel.basic_get("q") for _ in range(3)]
    messages[1].ack(multiple=True)
    channel.qos._flush()
    assert list(channel.qos._delivered) == [messages[2].delivery_tag]


def test_channel_ids_are_limited(connection):
    connection.transport.channel_max = 2
    connection.channel()
    connection.channel()
    with pytest.raises(ResourceError, match="channel_max=2"):
        connection.channel()


def test_priorities(channel):
    def priority(value):
        return channel._get_message_priority({"properties": {"priority": value}})

    assert [priority(v) for v in (5, -3, 99, None, "high")] == [5, 0, 9, 0, 0]


def test_base_transport_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="Transport does not implement establish"):
        Transport(None).establish_connection()
    with pytest.raises(NotImplementedError, match="_put"):
        virtual.AbstractChannel()._put("q", {})


def test_capabilities():
    some = Implements(a=1).extend(b=2)
    assert (some.a, some.b) == (1, 2)
    with pytest.raises(AttributeError):
        some.c  # noqa: B018


def test_queue_options_for_rabbitmq():
    found = to_rabbitmq_queue_arguments({"x": 1}, expires=1.5, max_length=3, max_priority=None)
    assert found == {"x": 1, "x-expires": 1500, "x-max-length": 3}
    with pytest.raises(ValueError, match="max_length must be a number"):
        to_rabbitmq_queue_arguments({}, max_length="many")


def test_no_warning_for_what_is_delivered(channel):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        channel.Producer().publish("x", routing_key="q")
