"""Pools of connections and channels; import them from :mod:`kombu_rs.connection`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from . import exceptions
from ._typing import TYPE_CHECKING, Any
from .connection import Connection
from .resource import Resource
from .utils.functional import lazy

if TYPE_CHECKING:
    from typing_extensions import Self

    from .protocols import Channel

__all__ = ("PooledConnection", "ConnectionPool", "ChannelPool")


class PooledConnection(Connection):
    """A connection of a pool; leaving ``with`` gives it back.

    Arguments:
        pool: whose it is.
    """

    def __init__(self, pool: ConnectionPool, **kwargs: Any) -> None:
        self._pool = pool
        super().__init__(**kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            # Nobody knows what state the link is in: the next user connects anew.
            self._pool.replace(self)
        self.release()


class ConnectionPool(Resource[PooledConnection]):
    """Connections like ``connection``.

    Arguments:
        connection: what they are like; not part of the pool.
        limit: how many; None: no limit.
        preload: how many to make at once. Default 0.

    Raises:
        ConnectionLimitExceeded: from ``acquire``, when all are in use.
    """

    LimitExceeded = exceptions.ConnectionLimitExceeded
    close_after_fork = True

    def __init__(self, connection: Connection, limit: int | None = None, **kwargs: Any) -> None:
        self.connection = connection
        super().__init__(limit=limit, **kwargs)

    def new(self) -> PooledConnection:
        """Make a connection; it connects when it is used."""
        return PooledConnection(self, **dict(self.connection._info(resolve=False)))

    def release_resource(self, resource: Any) -> None:
        """Note that a connection came back."""
        with suppress(AttributeError):
            resource._debug("released")

    def close_resource(self, resource: Any) -> None:
        """Close a connection for good."""
        resource._close()

    def collect_resource(self, resource: Any, socket_timeout: float = 0.1) -> Any:
        """Give a connection up without talking to the broker."""
        if not isinstance(resource, lazy):
            return resource.collect(socket_timeout)
        return None

    @contextmanager
    def acquire_channel(self, block: bool = False) -> Iterator[tuple[Connection, Channel]]:
        """Yield ``(connection, channel)``: a connection of the pool and its default channel."""
        with self.acquire(block=block) as connection:
            yield connection, connection.default_channel

    def setup(self) -> None:
        """Fill the pool, with promises beyond ``preload``."""
        for i in range(self.limit or 0):
            self._resource.put_nowait(self.new() if i < self.preload else lazy(self.new))

    def prepare(self, resource: Any) -> Any:
        """Evaluate the promise."""
        if callable(resource):
            resource = resource()
        resource._debug("acquired")
        return resource


class ChannelPool(Resource["Channel"]):
    """Channels of one connection.

    Arguments:
        connection: whose.
        limit: how many; None: no limit.

    Raises:
        ChannelLimitExceeded: from ``acquire``, when all are in use.
    """

    LimitExceeded = exceptions.ChannelLimitExceeded

    def __init__(self, connection: Connection, limit: int | None = None, **kwargs: Any) -> None:
        self.connection = connection
        super().__init__(limit=limit, **kwargs)

    def new(self) -> Any:
        """A promise of a channel."""
        return lazy(self.connection.channel)

    def setup(self) -> None:
        """Fill the pool: the first ``preload`` are opened, the others are promises."""
        for i in range(self.limit or 0):
            channel = self.new()
            self._resource.put_nowait(channel() if i < self.preload else channel)

    def prepare(self, channel: Any) -> Any:
        """Evaluate the promise."""
        return channel() if callable(channel) else channel


# Pickles and messages name the module that users import them from; this one cannot be the first
# of the two to be imported.
for _cls in (PooledConnection, ConnectionPool, ChannelPool):
    _cls.__module__ = Connection.__module__
