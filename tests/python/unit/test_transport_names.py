"""What other programs import from the transports' modules."""

from __future__ import annotations

import pytest

from kombu_rs import Connection
from kombu_rs.exceptions import ChannelError
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
