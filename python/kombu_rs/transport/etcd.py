"""``etcd://``: queues in etcd, by its API of version 2.

It needs python-etcd (``pip install kombu-rs[etcd]``), and a server that has that API: up to 3.5,
from 3.4 on with ``--enable-v2``. A URL is ``etcd://user:password@host:port``; with the
connection's ``ssl`` it is HTTPS.

A queue is a directory ``kombu/QUEUE``. Messages are keys in it that etcd numbers, taken in their
order under a lock in ``/_locks/QUEUE`` and deleted when they are taken. Direct exchanges; bindings
are known to the connection that declared them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from queue import Empty
from typing import Any

from ..log import get_logger
from ..utils.json import dumps, loads
from ..utils.objects import cached_property
from ..utils.uuid import uuid
from . import virtual
from ._channels import QueuesWithoutBindings
from ._libraries import missing

try:
    import etcd
except ImportError:  # the transport says so when it is used
    etcd = None

__all__ = ("Channel", "Transport")

logger = get_logger("kombu.transport.etcd")

DEFAULT_PORT = 2379
DEFAULT_HOST = "localhost"


class Channel(QueuesWithoutBindings):
    """A channel on etcd's keys."""

    #: The directory of all queues.
    prefix = "kombu"
    #: Read the state of this index; None: the newest.
    index: int | None = None
    #: Seconds to wait for an answer.
    timeout = 10
    session_ttl = 30
    #: Seconds after which a lock is given up, if its owner dies.
    lock_ttl = 10

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.client = etcd.Client(**self._client_options())

    def _client_options(self) -> dict[str, Any]:
        client = self.connection.client
        options = {
            "host": client.hostname or DEFAULT_HOST,
            "port": int(client.port or self.connection.default_port),
        }
        if client.userid:
            options.update(username=client.userid, password=client.password or "")
        if client.ssl:
            options["protocol"] = "https"
        if isinstance(client.ssl, dict):
            if client.ssl.get("ca_certs"):
                options["ca_cert"] = client.ssl["ca_certs"]
            if client.ssl.get("certfile"):
                options["cert"] = (client.ssl["certfile"], client.ssl.get("keyfile"))
        return options

    def _key_prefix(self, queue: str) -> str:
        """The directory of a queue."""
        return f"{self.prefix}/{queue}"

    @contextmanager
    def _queue_lock(self, queue: str) -> Iterator[None]:
        """Hold the lock of a queue: others that read or delete wait."""
        lock = etcd.Lock(self.client, queue)
        # The library takes locks of the same value for its own: each needs another.
        lock._uuid = f"{self.lock_value}.{uuid()}"
        try:
            lock.acquire(blocking=True, lock_ttl=self.lock_ttl)
            yield
        finally:
            if lock.is_taken:
                lock.release()

    @cached_property
    def lock_value(self) -> str:
        """Who holds locks: host and process."""
        return f"{socket.gethostname()}.{os.getpid()}"

    def _messages(self, queue: str) -> list[Any]:
        """The nodes of a queue's messages, in order.

        Raises:
            etcd.EtcdKeyNotFound: there is no such queue.
        """
        key = self._key_prefix(queue)
        result = self.client.read(key=key, recursive=True, index=self.index, timeout=self.timeout)
        # Directories are queues whose names go on after a slash.
        nodes = [node for node in result._children if not node.get("dir")]
        return sorted(nodes, key=lambda node: node.get("key", ""))

    def _new_queue(self, queue: str, **_: Any) -> bool:  # type: ignore[override]
        # There already: then it says that a directory is not a file.
        with suppress(etcd.EtcdNotFile):
            self.client.write(key=self._key_prefix(queue), dir=True, value=None)
        return True

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        try:
            self.client.read(self._key_prefix(queue))
        except etcd.EtcdKeyNotFound:
            return False
        return True

    def _delete(self, queue: str, *args: Any, **_: Any) -> None:
        self._purge(queue)
        # Not with all below it: that may be queues whose names go on after a slash.
        with suppress(etcd.EtcdKeyNotFound, etcd.EtcdDirNotEmpty):
            self.client.delete(key=self._key_prefix(queue), dir=True)

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        # etcd numbers and writes it in one step, which needs no lock.
        self.client.write(key=self._key_prefix(queue), value=dumps(payload), append=True)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """Take the oldest message.

        Raises:
            queue.Empty: there is none.
        """
        with self._queue_lock(queue):
            try:
                node = self._messages(queue)[0]
                self.client.delete(key=node["key"])
            except (IndexError, etcd.EtcdKeyNotFound):
                raise Empty() from None
        return loads(node["value"])

    def _purge(self, queue: str) -> int:
        with self._queue_lock(queue):
            try:
                nodes = self._messages(queue)
            except etcd.EtcdKeyNotFound:
                return 0
            purged = 0
            for node in nodes:
                with suppress(etcd.EtcdKeyNotFound):
                    self.client.delete(key=node["key"])
                    purged += 1
            return purged

    def _size(self, queue: str) -> int:
        try:
            return len(self._messages(queue))
        except etcd.EtcdKeyNotFound:
            return 0


class Transport(virtual.Transport):
    """A transport over etcd's API of version 2."""

    Channel = Channel

    default_port = DEFAULT_PORT
    driver_type = "etcd"
    driver_name = "python-etcd"
    polling_interval = 3

    implements = virtual.Transport.implements.extend(exchange_type=frozenset(["direct"]))

    connection_errors = virtual.Transport.connection_errors + (
        (etcd.EtcdException,) if etcd else ()
    )
    channel_errors = virtual.Transport.channel_errors + ((etcd.EtcdException,) if etcd else ())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # To ask whether the server is there.
        self._etcd: Any = None

    def establish_connection(self) -> Any:
        """Connect.

        Raises:
            ImportError: python-etcd is not installed.
            etcd.EtcdException: the server does not answer, or lacks the API of version 2.
        """
        if etcd is None:
            raise missing("etcd", "python-etcd", "etcd")
        connection = super().establish_connection()
        self._etcd = self.channels[-1].client
        try:
            self._ask()
        except BaseException:
            self.close_connection(connection)
            raise
        return connection

    def _ask(self) -> None:
        try:
            self._etcd.read("/")
        except etcd.EtcdKeyNotFound:
            pass
        except etcd.EtcdException as exc:
            if "404" not in str(exc):
                raise
            raise etcd.EtcdException(
                "the server has no API of version 2, which this transport needs: "
                "start etcd (3.5 or older) with --enable-v2"
            ) from exc

    def verify_connection(self, connection: Any) -> bool:
        """Whether the server answers."""
        try:
            self._ask()
        except etcd.EtcdException as exc:
            logger.debug("the server does not answer: %s", exc)
            return False
        return True

    def driver_version(self) -> str:
        """Version of python-etcd."""
        try:
            return version("python-etcd")
        except PackageNotFoundError:
            return "N/A"
