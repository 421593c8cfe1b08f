"""redis-py clients that put a prefix before every key: what ``channel.client`` is with
``global_keyprefix``. Needs redis-py."""

from __future__ import annotations

from redis.client import Pipeline, PubSub, Redis
from redis.connection import SSLConnection
from redis.sentinel import SentinelManagedConnection

from ..._typing import Any
from .keyprefix import GlobalKeyPrefixMixin

__all__ = (
    "PrefixedRedisPipeline",
    "PrefixedRedisPubSub",
    "PrefixedStrictRedis",
    "SentinelManagedSSLConnection",
)


class PrefixedStrictRedis(GlobalKeyPrefixMixin, Redis):
    """A client whose keys have a prefix.

    Arguments:
        global_keyprefix: the prefix. Other arguments are those of ``redis.Redis``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.global_keyprefix = kwargs.pop("global_keyprefix", "")
        super().__init__(*args, **kwargs)

    def pubsub(self, **kwargs: Any) -> PrefixedRedisPubSub:
        """Return an object for publish and subscribe with the same prefix."""
        kwargs = {"global_keyprefix": self.global_keyprefix, **kwargs}
        return PrefixedRedisPubSub(self.connection_pool, **kwargs)


class PrefixedRedisPipeline(GlobalKeyPrefixMixin, Pipeline):
    """A pipeline of :class:`PrefixedStrictRedis`.

    Arguments:
        global_keyprefix: the prefix. Other arguments are those of redis-py's pipeline.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.global_keyprefix = kwargs.pop("global_keyprefix", "")
        super().__init__(*args, **kwargs)


class PrefixedRedisPubSub(PubSub):
    """Subscriptions to channels that have a prefix.

    Arguments:
        global_keyprefix: the prefix. Other arguments are those of redis-py's class.
    """

    PUBSUB_COMMANDS = ("SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.global_keyprefix = kwargs.pop("global_keyprefix", "")
        super().__init__(*args, **kwargs)

    def _prefix_args(self, args: Any) -> list[Any]:
        command, *names = args
        if command in self.PUBSUB_COMMANDS:
            names = [f"{self.global_keyprefix}{_text(name)}" for name in names]
        return [command, *names]

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send a command; names of channels get the prefix."""
        return super().execute_command(*self._prefix_args(args), **kwargs)  # type: ignore[no-untyped-call]

    def parse_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read what came; names of channels and patterns lose the prefix."""
        response = super().parse_response(*args, **kwargs)  # type: ignore[no-untyped-call]
        if not isinstance(response, list | tuple) or len(response) < 2:
            return response
        kind, *rest = response
        # Behind the kind: a channel, or a pattern and a channel, and then what is no name.
        names = 2 if _text(kind) == "pmessage" else 1
        return [kind, *map(self._bare, rest[:names]), *rest[names:]]

    def _bare(self, name: Any) -> Any:
        if isinstance(name, bytes):
            return name.removeprefix(self.global_keyprefix.encode())
        return name.removeprefix(self.global_keyprefix) if isinstance(name, str) else name


class SentinelManagedSSLConnection(SentinelManagedConnection, SSLConnection):
    """A connection over TLS to the server that a sentinel names."""


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
