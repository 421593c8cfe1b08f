"""``zookeeper://``: queues in ZooKeeper, with the recipe of its client library.

It needs kazoo (``pip install kombu-rs[zookeeper]``). A URL is
``zookeeper://user:password@host:port/vhost``; user and password are a digest identity, more hosts
are alternates of the connection, and its ``ssl`` is a dictionary with ``ca_certs``, ``certfile``
and ``keyfile``.

A queue is the node ``/VHOST/QUEUE``, its messages are nodes below it, named by priority (9 less
the message's; the lowest goes first) and a number of ZooKeeper's. A message is deleted when it is
taken: one that a consumer had not acknowledged when it was killed is lost. Direct and topic
exchanges; bindings are known to the connection that declared them.
"""

from __future__ import annotations

import posixpath
import socket
from contextlib import suppress
from queue import Empty
from typing import Any

from ..utils.encoding import bytes_to_str, ensure_bytes
from ..utils.json import dumps, loads
from ..utils.url import url_to_parts
from . import virtual
from ._channels import QueuesWithoutBindings
from ._libraries import missing

try:
    import kazoo
    from kazoo import exceptions as errors
    from kazoo.client import KazooClient
    from kazoo.handlers.threading import KazooTimeoutError
    from kazoo.recipe.queue import Queue
except ImportError:  # the transport says so when it is used
    kazoo = None
    KZ_CONNECTION_ERRORS: tuple[type[BaseException], ...] = ()
    KZ_CHANNEL_ERRORS: tuple[type[BaseException], ...] = ()
else:
    KZ_CONNECTION_ERRORS = (
        errors.SystemZookeeperError,
        errors.ConnectionLoss,
        errors.MarshallingError,
        errors.UnimplementedError,
        errors.OperationTimeoutError,
        errors.NoAuthError,
        errors.InvalidACLError,
        errors.AuthFailedError,
        errors.SessionExpiredError,
        errors.ConnectionClosedError,
        KazooTimeoutError,
    )
    KZ_CHANNEL_ERRORS = (
        errors.RuntimeInconsistency,
        errors.DataInconsistency,
        errors.BadArgumentsError,
        errors.MarshallingError,
        errors.UnimplementedError,
        errors.OperationTimeoutError,
        errors.APIError,
        errors.NoNodeError,
        errors.NoAuthError,
        errors.NodeExistsError,
        errors.NoChildrenForEphemeralsError,
        errors.NotEmptyError,
        errors.SessionExpiredError,
        errors.InvalidCallbackError,
        socket.error,
    )

__all__ = ("Channel", "Transport")

DEFAULT_PORT = 2181

# How the library's recipe names messages.
ENTRY = "entry-"


class Channel(QueuesWithoutBindings):
    """A channel on ZooKeeper's nodes."""

    _client: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._queues: dict[str, Any] = {}
        vhost = connection.client.virtual_host or ""
        self._vhost = "/" + vhost.strip("/")

    def _get_path(self, queue_name: str) -> str:
        return posixpath.join(self._vhost, queue_name)

    def _get_queue(self, queue_name: str) -> Any:
        queue = self._queues.get(queue_name)
        if queue is None:
            queue = Queue(self.client, self._get_path(queue_name))
            self._queues[queue_name] = queue
            # The library makes the node when it is first asked something.
            len(queue)
        return queue

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        body = ensure_bytes(dumps(message))
        priority = self._get_message_priority(message, reverse=True)
        known = self._get_queue(queue)
        try:
            known.put(body, priority=priority)
        except errors.NoNodeError:
            # Deleted by another client.
            del self._queues[queue]
            self._get_queue(queue).put(body, priority=priority)

    def _get(self, queue: str) -> dict[str, Any]:  # type: ignore[override]
        try:
            message = self._get_queue(queue).get()
        except errors.NoNodeError:
            self._queues.pop(queue, None)
            message = None
        if message is None:
            raise Empty()
        return loads(bytes_to_str(message))

    def _purge(self, queue: str) -> int:
        path, purged = self._get_path(queue), 0
        try:
            children = self.client.get_children(path)
        except errors.NoNodeError:
            return 0
        for name in children:
            if name.startswith(ENTRY):
                with suppress(errors.NoNodeError):
                    self.client.delete(f"{path}/{name}")
                    purged += 1
        return purged

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self._purge(queue)
        self._queues.pop(queue, None)
        # Not empty: another client has put a message, or there are queues below it.
        with suppress(errors.NoNodeError, errors.NotEmptyError):
            self.client.delete(self._get_path(queue))

    def _size(self, queue: str) -> int:
        try:
            return len(self._get_queue(queue))
        except errors.NoNodeError:
            self._queues.pop(queue, None)
            return 0

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self.client.ensure_path(self._get_path(queue))

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.client.exists(self._get_path(queue)) is not None

    def _open(self) -> Any:
        """Return a client that is connected."""
        info = self.connection.client
        options: dict[str, Any] = {}
        if info.userid:
            options["auth_data"] = [("digest", f"{info.userid}:{info.password or ''}")]
        if info.ssl:
            options["use_ssl"] = True
        if isinstance(info.ssl, dict):
            names = {"ca_certs": "ca", "certfile": "certfile", "keyfile": "keyfile"}
            options.update((names[k], v) for k, v in info.ssl.items() if k in names)
        client = KazooClient(",".join(self._hosts()), **options)
        try:
            client.start(**({"timeout": info.connect_timeout} if info.connect_timeout else {}))
        except BaseException:
            client.stop()
            client.close()
            raise
        return client

    def _hosts(self) -> list[str]:
        """The servers, each with its port, without repetitions."""
        info = self.connection.client
        default = self.connection.default_port
        places = [(info.hostname or "localhost", info.port or default)]
        for alternate in info.alt:
            url = alternate if "://" in alternate else f"zookeeper://{alternate}"
            parts = url_to_parts(url)
            places.append((parts.hostname or "localhost", parts.port or default))
        return list(dict.fromkeys(f"{host}:{port}" for host, port in places))

    @property
    def client(self) -> Any:
        """The library's client, which all channels of a connection share."""
        if self._client is None:
            if self.connection.kazoo is None:
                self.connection.kazoo = self._open()
            self._client = self.connection.kazoo
        return self._client


class Transport(virtual.Transport):
    """A transport over ZooKeeper's nodes."""

    Channel = Channel

    polling_interval = 1
    default_port = DEFAULT_PORT
    connection_errors = virtual.Transport.connection_errors + KZ_CONNECTION_ERRORS
    channel_errors = virtual.Transport.channel_errors + KZ_CHANNEL_ERRORS
    driver_type = "zookeeper"
    driver_name = "kazoo"

    #: The library's client, once something was asked.
    kazoo: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def establish_connection(self) -> Any:
        """Be ready; the server is connected to when it is first needed.

        Raises:
            ImportError: kazoo is not installed.
        """
        if kazoo is None:
            raise missing("zookeeper", "kazoo", "zookeeper")
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        """Close all channels, then the session."""
        try:
            super().close_connection(connection)
        finally:
            client, self.kazoo = self.kazoo, None
            if client is not None:
                client.stop()
                client.close()

    def driver_version(self) -> str:
        """Version of kazoo."""
        return kazoo.__version__ if kazoo else "N/A"
