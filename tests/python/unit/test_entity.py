"""Exchanges, queues and bindings."""

from __future__ import annotations

import copy
import pickle
from unittest.mock import Mock

import pytest

from kombu_rs import Exchange, Queue, binding
from kombu_rs.entity import maybe_delivery_mode
from kombu_rs.exceptions import NotBoundError


@pytest.fixture
def channel():
    channel = Mock(name="channel", channel_id=3)
    channel.prepare_queue_arguments.side_effect = lambda arguments, **options: {
        **arguments,
        **{k: v for k, v in options.items() if v is not None},
    }
    channel.queue_declare.side_effect = lambda queue, **kw: (queue or "made-up", 0, 0)
    return channel


def names(channel):
    return [call[0] for call in channel.method_calls if "prepare" not in call[0]]


def test_declaring_a_queue_declares_what_it_needs(channel):
    queue = Queue(
        "q", Exchange("e", "topic"), "k", expires=30, queue_arguments={"x": 1}, exclusive=True
    )
    assert queue(channel).declare() == "q"
    assert names(channel) == ["exchange_declare", "queue_declare", "queue_bind"]
    channel.queue_declare.assert_called_once_with(
        queue="q",
        passive=False,
        durable=True,
        exclusive=True,
        auto_delete=True,
        arguments={"x": 1, "expires": 30.0},
        nowait=False,
    )
    channel.queue_bind.assert_called_once_with(
        queue="q", exchange="e", routing_key="k", arguments=None, nowait=False
    )


def test_default_exchange_is_neither_declared_nor_bound(channel):
    Queue("q")(channel).declare()
    assert names(channel) == ["queue_declare"]


@pytest.mark.parametrize(
    "exchange", [Exchange(""), Exchange("amq.topic", "topic"), Exchange("e", no_declare=True)]
)
def test_exchanges_that_are_not_declared(channel, exchange):
    exchange(channel).declare()
    assert not channel.exchange_declare.called


def test_bindings(channel):
    source = Exchange("source")
    queue = Queue("q", [source.binding("a"), binding(source, "b", arguments={"x": 1})])
    assert queue.exchange is None
    queue(channel).declare()
    keys = {call.kwargs["routing_key"] for call in channel.queue_bind.call_args_list}
    assert keys == {"a", "b"}


def test_broker_names_the_queue(channel):
    seen = []
    queue = Queue(on_declared=lambda *answer: seen.append(answer))(channel)
    queue.declare()
    assert (queue.name, seen) == ("made-up", [("made-up", 0, 0)])


def test_unbound_entities_say_so():
    with pytest.raises(NotBoundError, match="Exchange"):
        Exchange("e").declare()
    with pytest.raises(NotBoundError, match="Queue"):
        Queue("q").get()


def test_binding_leaves_the_original_alone(channel):
    queue = Queue("q", Exchange("e"))
    bound = queue(channel)
    assert bound.is_bound
    assert bound.exchange.is_bound
    assert not queue.is_bound
    assert not queue.exchange.is_bound
    assert bound == queue


@pytest.mark.parametrize(
    "entity",
    [
        Exchange("e", "topic", durable=False, arguments={"a": 1}),
        Queue("q", Exchange("e"), "k", max_priority=3),
    ],
)
def test_copies_are_equal(entity):
    for twin in (copy.copy(entity), pickle.loads(pickle.dumps(entity))):
        assert twin == entity
        assert hash(twin) == hash(entity)
        assert twin is not entity
    assert entity != 1


def test_dictionaries_both_ways():
    queue = Queue("q", Exchange("e", "topic"), "k", max_length=3, expires=1.5, durable=False)
    values = queue.as_dict(recurse=True)
    assert values["exchange"]["type"] == "topic"
    values.update(exchange="e", exchange_type="topic")
    again = Queue.from_dict(values.pop("name"), exchange_durable=True, **values)
    assert again == queue
    assert (again.max_length, again.expires) == (3, 1.5)


def test_from_dict_for_one_of_both():
    queue = Queue.from_dict(
        "q",
        exchange="e",
        binding_key="k",
        durable=True,
        exchange_durable=False,
        exchange_arguments={"a": 1},
    )
    assert queue.routing_key == "k"
    assert queue.durable
    assert not queue.exchange.durable
    assert queue.exchange.arguments == {"a": 1}


def test_delivery_modes():
    modes = [maybe_delivery_mode(m) for m in (None, 1, 2, "transient", "persistent")]
    assert modes == [2, 1, 2, 1, 2]
    with pytest.raises(KeyError, match=r"'durable'.*persistent, transient"):
        maybe_delivery_mode("durable")
    assert Exchange("e", delivery_mode="transient").delivery_mode == 1


def test_reprs(channel):
    exchange = Exchange("e", "topic")
    assert repr(exchange) == "<unbound Exchange e(topic)>"
    assert repr(exchange(channel)) == "<Exchange e(topic) bound to chan:3>"
    assert repr(Queue("q", exchange, "k")) == (
        "<unbound Queue q -> <unbound Exchange e(topic)> -> k>"
    )
    assert repr(exchange.binding("k")) == "<binding: e->k>"
    assert str(Exchange("")) == "Exchange ''(direct)"
