"""Pools of connections and producers, one pool per distinct connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

from ._typing import TYPE_CHECKING, Any, TypeVar
from .messaging import Producer
from .resource import Resource
from .utils.collections import EqualityDict
from .utils.compat import register_after_fork
from .utils.functional import lazy

if TYPE_CHECKING:
    from . import messaging
    from .connection import Connection, ConnectionPool

__all__ = (
    "ProducerPool",
    "PoolGroup",
    "register_group",
    "connections",
    "producers",
    "get_limit",
    "set_limit",
    "reset",
)

_Pool = TypeVar("_Pool", bound="Resource[Any]")
_Group = TypeVar("_Group", bound="PoolGroup[Any]")

_limit = [10]
_groups: list[Any] = []
use_global_limit: object = object()
disable_limit_protection: str | None = os.environ.get("KOMBU_DISABLE_LIMIT_PROTECTION")


def _after_fork_cleanup_group(group: PoolGroup[Any]) -> None:
    # The sockets belong to the parent: forget the pools, do not close anything.
    group.clear()


class ProducerPool(Resource[Producer]):
    """Producers, each with a connection of a connection pool while it is in use.

    Arguments:
        connections: the :class:`~kombu_rs.connection.ConnectionPool`.
        limit: how many producers; None: no limit.
        Producer: make them with this class.
    """

    Producer: Any = Producer
    close_after_fork = True

    def __init__(self, connections: ConnectionPool, *args: Any, **kwargs: Any) -> None:
        self.connections = connections
        self.Producer = kwargs.pop("Producer", None) or self.Producer
        super().__init__(*args, **kwargs)

    def _acquire_connection(self) -> Any:
        return self.connections.acquire(block=True)

    def create_producer(self) -> messaging.Producer:
        """Make a producer over a connection of the pool."""
        connection = self._acquire_connection()
        try:
            return self.Producer(connection)
        except BaseException:
            connection.release()
            raise

    def new(self) -> Any:
        """Return a promise of :meth:`create_producer`."""
        return lazy(self.create_producer)

    def setup(self) -> None:
        """Fill the pool with promises, up to its limit."""
        for _ in range(self.limit or 0):
            self._resource.put_nowait(self.new())

    def close_resource(self, resource: Any) -> None:
        """Give up a producer; its connection goes on in its own pool."""

    def prepare(self, p: Any) -> messaging.Producer:
        """Evaluate the promise, and give the producer a connection if it has none."""
        if callable(p):
            p = p()
        if p._channel is None:
            connection = self._acquire_connection()
            try:
                p.revive(connection)
            except BaseException:
                connection.release()
                raise
        return p

    def release(self, resource: Any) -> None:
        """Take a producer back, and its connection into the connection pool."""
        connection = resource.__connection__
        if connection:
            connection.release()
        resource.channel = None
        super().release(resource)


class PoolGroup(EqualityDict[_Pool]):
    """Pools by what they are made from; a lookup makes the pool.

    Arguments:
        limit: of each pool; :data:`use_global_limit` follows :func:`set_limit`.
        close_after_fork: forget all pools in a forked child.
    """

    def __init__(self, limit: Any = None, close_after_fork: bool = True) -> None:
        self.limit = limit
        self.close_after_fork = close_after_fork
        if close_after_fork and register_after_fork is not None:
            register_after_fork(self, _after_fork_cleanup_group)

    def create(self, resource: Any, limit: int | None) -> _Pool:
        """Make the pool of ``resource``; subclasses say how."""
        raise NotImplementedError("PoolGroups must define ``create``")

    def __missing__(self, resource: Any) -> _Pool:
        limit = get_limit() if self.limit is use_global_limit else self.limit
        pool = self[resource] = self.create(resource, limit)
        return pool


def register_group(group: _Group) -> _Group:
    """Add a group to those that :func:`set_limit` and :func:`reset` work on."""
    _groups.append(group)
    return group


class Connections(PoolGroup["ConnectionPool"]):
    """Connection pools by connection."""

    def create(self, connection: Connection, limit: int | None) -> ConnectionPool:
        """Make a pool of connections like ``connection``."""
        return connection.Pool(limit=limit)


connections: Connections = register_group(Connections(limit=use_global_limit))


class Producers(PoolGroup[ProducerPool]):
    """Producer pools by connection."""

    def create(self, connection: Connection, limit: int | None) -> ProducerPool:
        """Make a pool of producers over the connection pool of ``connection``."""
        return ProducerPool(connections[connection], limit=limit)


producers: Producers = register_group(Producers(limit=use_global_limit))


def _all_pools() -> Iterator[Any]:
    return chain(*(group.values() for group in _groups))


def get_limit() -> int:
    """The limit of every pool in this process that has no limit of its own."""
    return _limit[0]


def set_limit(
    limit: int | None,
    force: bool = False,
    reset_after: bool = False,
    ignore_errors: bool = False,
) -> int | None:
    """Change the limit of all pools.

    Arguments:
        limit: how many connections or producers per pool; 0 means no limit.
        force: allow a smaller limit although some are in use.
        reset_after: close what is in use too.
        ignore_errors: keep pools that cannot shrink as they are.

    Raises:
        TypeError: ``limit`` is a bool.
        RuntimeError: a pool in use cannot shrink.
    """
    if isinstance(limit, bool):
        raise TypeError("limit must be an int, not bool")
    limit = limit or 0
    current = _limit[0] or 0
    if limit != current:
        _limit[0] = limit
        for pool in _all_pools():
            pool.resize(limit, force, reset=reset_after, ignore_errors=ignore_errors)
    return limit


def reset(*args: Any, **kwargs: Any) -> None:
    """Close all pools, whatever is in use, and forget them."""
    for pool in _all_pools():
        # A broken link must not keep the others open.
        with suppress(Exception):
            pool.force_close_all()
    for group in _groups:
        group.clear()
