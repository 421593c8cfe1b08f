"""``redis://`` and ``rediss://``."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..exceptions import ChannelError, ConnectionError, InconsistencyError
from . import native
from .base import to_rabbitmq_queue_arguments

__all__ = ("Channel", "Transport", "get_redis_error_classes")


class error_classes_t(NamedTuple):
    """What can go wrong: with the connection, or with one operation."""

    connection_errors: tuple[type[BaseException], ...]
    channel_errors: tuple[type[BaseException], ...]


def get_redis_error_classes() -> error_classes_t:
    """Return the errors of Redis, those of redis-py included.

    For Celery's result backend, which uses redis-py; this transport does not.

    Raises:
        ImportError: if redis-py is not installed.
    """
    from redis import exceptions

    return error_classes_t(
        (
            ConnectionError,
            InconsistencyError,
            OSError,
            exceptions.ConnectionError,
            exceptions.BusyLoadingError,
            exceptions.AuthenticationError,
            exceptions.TimeoutError,
        ),
        (
            ChannelError,
            exceptions.DataError,
            exceptions.InvalidResponse,
            exceptions.ResponseError,
        ),
    )


class Channel(native.Channel):
    """A channel on Redis lists."""

    def prepare_queue_arguments(self, arguments: dict | None, **kwargs: Any) -> dict:
        """Return the arguments to declare a queue with: ``expires`` becomes ``x-expires``."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)


class Transport(native.Transport):
    """Redis, in Kombu's layout."""

    Channel = Channel

    scheme = "redis"
    can_parse_url = False
    default_port = 6379
    driver_type = "redis"
    driver_name = "kombu-rs"

    @classmethod
    def _url(cls, client: Any) -> str:
        url = super()._url(client)
        if url.startswith("socket://"):
            # The connection has taken the prefix off `redis+socket:///path`.
            return f"redis+{url}"
        if getattr(client, "transport_cls", None) == "rediss" and url.startswith("redis://"):
            return "rediss" + url[len("redis") :]
        return url
