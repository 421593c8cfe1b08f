"""What other programs import from the transports' modules."""

from __future__ import annotations

import pytest

from kombu_rs import Connection, Exchange, Producer, Queue
from kombu_rs.exceptions import ChannelError, RecoverableConnectionError
from kombu_rs.transport.redis import get_redis_error_classes


def test_memory_can_be_cleared_between_tests():
    from kombu_rs.transport.memory import Channel, Transport

    with Connection("memory://") as connection, connection.SimpleQueue("cleared") as queue:
        queue.put("x")
        assert queue.qsize() == 1
    assert "cleared" in Transport.global_state.exchanges
    Transport.global_state.clear()
    assert "cleared" not in Transport.global_state.exchanges
    Channel.queues.clear()
    with Connection("memory://") as connection, connection.SimpleQueue("cleared") as queue:
        assert queue.qsize() == 0


def test_errors_of_redis_for_result_backends():
    redis = pytest.importorskip("redis")
    errors = get_redis_error_classes()
    assert issubclass(redis.TimeoutError, errors.connection_errors)
    assert issubclass(redis.ResponseError, errors.channel_errors)
    assert issubclass(ChannelError, errors.channel_errors)
    assert not issubclass(redis.RedisError, errors.connection_errors)


def test_a_memory_channel_may_have_queues_of_its_own():
    """Celery's tests keep two brokers in one process apart this way."""
    ours, theirs = Connection("memory://"), Connection("memory://")
    with ours, theirs:
        mine: dict = {}
        ours.default_channel.queues = mine
        theirs.default_channel.queues = {}
        queue = Queue("apart", Exchange("apart"), routing_key="apart")
        for connection in (ours, theirs):
            queue(connection.default_channel).declare()
        Producer(ours).publish("x", exchange="apart", routing_key="apart")
        assert list(mine) == ["apart"]
        assert mine["apart"].qsize() == 1
        assert queue(theirs.default_channel).get() is None
        got = []
        with ours.Consumer(queue, callbacks=[lambda body, message: got.append(message)]):
            ours.drain_events(timeout=5)
        got[0].requeue()
        assert queue(ours.default_channel).purge() == 1
        queue(ours.default_channel).delete()
        assert mine == {}
        with Connection("memory://") as third:
            assert queue(third.default_channel).get() is None


@pytest.mark.parametrize("wrong", [3, ("redis",)])
def test_what_is_no_transport(wrong):
    with pytest.raises(TypeError, match="'module:Class' or a class, got"):
        Connection("localhost", transport=wrong).connect()


def test_our_prefix_is_known_to_us_too():
    with Connection("kombu-rs+memory://") as connection, connection.SimpleQueue("own") as queue:
        queue.put("x")
        assert queue.get(timeout=1).payload == "x"


def test_closed_channels_do_not_consume():
    with Connection("memory://") as connection:
        channel = connection.channel()
        consumer = connection.Consumer(Queue("closed", channel=channel), channel=channel)
        channel.close()
        with pytest.raises(RecoverableConnectionError, match="closed"):
            consumer.consume()
