"""``sentinel://``: Redis behind sentinels, who know where the master is."""

from __future__ import annotations

from ..._typing import Any
from . import hooks, parameters
from .channel import Channel, _FromRedisPy, _redis_py
from .transport import Transport

__all__ = ("SentinelChannel", "SentinelTransport")

#: Port of a sentinel.
DEFAULT_SENTINEL_PORT = 26379


class _SentinelManagedSSL:
    """The class attribute that is :class:`.SentinelManagedSSLConnection`."""

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        try:
            from .prefixed import SentinelManagedSSLConnection
        except ImportError:
            return None
        return SentinelManagedSSLConnection


class SentinelChannel(Channel):
    """A channel on a master that sentinels name.

    The core asks them each time it connects. Transport options:

    ``master_name``
        Which of the masters that they watch. Required.
    ``min_other_sentinels``
        A sentinel that sees fewer others is not believed; default 0.
    ``sentinel_kwargs``
        How to log in at the sentinels: ``username``, ``password``, ``ssl`` and its options,
        ``socket_timeout``. User and password of the URL are those of the master.
    ``sentinel_fanout_compat``
        Publish and listen to the fanout channels of Kombu before 5.4, too.
    """

    from_transport_options = (
        *Channel.from_transport_options,
        "master_name",
        "min_other_sentinels",
        "sentinel_kwargs",
        "sentinel_fanout_compat",
    )

    #: Which of the masters that the sentinels watch.
    master_name: str
    #: Use the fanout channels of Kombu before 5.4, too.
    sentinel_fanout_compat = False

    connection_class: Any = _FromRedisPy("redis.sentinel", "SentinelManagedConnection")
    connection_class_ssl: Any = _SentinelManagedSSL()

    _sentinel_manager: Any = None
    _async_sentinel_manager: Any = None
    _legacy_keyprefix_fanout: str | None = None

    def _read_options(self) -> None:
        super()._read_options()
        if "{db}" in self.keyprefix_fanout:
            self._legacy_keyprefix_fanout = self.keyprefix_fanout

    @property
    def _fanout_compat_active(self) -> bool:
        return bool(self.sentinel_fanout_compat) and self._legacy_keyprefix_fanout is not None

    def _pool_is_replaced(self) -> bool:
        return super()._pool_is_replaced() or hooks.is_replaced(
            self, self._ours, "_sentinel_managed_pool"
        )

    def _native_parameters(self) -> tuple[str, dict[str, Any]]:
        url, options = super()._native_parameters()
        if self._fanout_compat_active:
            options["legacy_keyprefix_fanout"] = self._legacy_keyprefix_fanout
        if self._pool_is_replaced():
            return url, options
        if not getattr(self, "master_name", None):
            raise ValueError("'master_name' transport option must be specified.")
        options.update(
            master_name=self.master_name,
            sentinels=parameters.sentinel_nodes(self.connection.client, DEFAULT_SENTINEL_PORT),
            min_other_sentinels=getattr(self, "min_other_sentinels", 0),
            sentinel_kwargs=parameters.plain_options(getattr(self, "sentinel_kwargs", None)),
        )
        return parameters.as_sentinel(url), options

    def _get_publish_topics(self, exchange: str, routing_key: str) -> list[str]:
        topics = super()._get_publish_topics(exchange, routing_key)
        if self._fanout_compat_active:
            tail = topics[0].removeprefix(self.keyprefix_fanout)
            topics.append(f"{self._legacy_keyprefix_fanout}{tail}")
        return topics

    # -- a client of redis-py

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:
        """redis-py's connections to the master, for :attr:`client`. A subclass may return its own
        pool: then the core connects to where that would."""
        _redis_py()
        import redis.sentinel

        named = self._connparams(asynchronous)
        for name in ("host", "port"):
            named.pop(name, None)
        if not getattr(self, "master_name", None):
            raise ValueError("'master_name' transport option must be specified.")
        nodes = parameters.sentinel_nodes(self.connection.client, DEFAULT_SENTINEL_PORT)
        manager = redis.sentinel.Sentinel(
            [(host, port) for host, port in nodes],
            min_other_sentinels=getattr(self, "min_other_sentinels", 0),
            sentinel_kwargs=getattr(self, "sentinel_kwargs", None),
            **named,
        )
        if asynchronous:
            self._async_sentinel_manager = manager
        else:
            self._sentinel_manager = manager
        master = manager.master_for(
            self.master_name,
            self.Client,
            username=named.get("username"),
            password=named.get("password"),
        )
        return master.connection_pool

    def _get_pool(self, asynchronous: bool = False) -> Any:
        self._fill_in_database(parameters.database(self.connection.client.virtual_host))
        return self._sentinel_managed_pool(asynchronous)

    def _disconnect_pools(self) -> None:
        super()._disconnect_pools()
        managers = self._sentinel_manager, self._async_sentinel_manager
        self._sentinel_manager = self._async_sentinel_manager = None
        for manager in managers:
            close = getattr(manager, "close", None)
            if close is not None:
                close()


SentinelChannel._native_class = SentinelChannel
SentinelChannel._ours = hooks.snapshot(SentinelChannel, "_sentinel_managed_pool")


class SentinelTransport(Transport):
    """Redis behind sentinels."""

    default_port = DEFAULT_SENTINEL_PORT
    scheme = "sentinel"
    Channel = SentinelChannel


SentinelTransport._native_class = SentinelTransport
