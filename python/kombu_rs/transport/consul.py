"""``consul://``: queues in the key/value store of Consul.

It needs python-consul2 (``pip install kombu-rs[consul]``). A URL is ``consul://host:port``; its
password is the ACL token, and with the connection's ``ssl`` it is HTTPS.

A queue is the key ``kombu/QUEUE``, its messages are keys below ``kombu/QUEUE/msg/``, taken in the
order in which Consul has seen them, while a session of the consumer's holds ``kombu/QUEUE.lock``,
and deleted when they are taken. Direct exchanges; bindings are known to the connection that
declared them.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from queue import Empty
from time import monotonic, sleep
from typing import Any

from ..exceptions import ChannelError
from ..log import get_logger
from ..utils.json import dumps, loads
from ..utils.objects import cached_property
from ..utils.uuid import uuid
from . import virtual
from ._channels import QueuesWithoutBindings
from ._libraries import missing

try:
    import consul
    from requests.exceptions import RequestException
except ImportError:  # the transport says so when it is used
    consul = None

__all__ = ("Channel", "LockError", "Transport")

logger = get_logger("kombu.transport.consul")

DEFAULT_PORT = 8500
DEFAULT_HOST = "localhost"

# Seconds to try for a lock that another consumer holds, which is as long as it takes a message.
LOCK_PATIENCE = 0.5


class LockError(Exception):
    """Another consumer holds the lock of a queue."""


class Channel(QueuesWithoutBindings):
    """A channel on Consul's keys."""

    #: Where all queues are.
    prefix = "kombu"
    index: int | None = None
    timeout = "10s"
    #: Seconds after which locks are given up, if their owner dies.
    session_ttl = 30

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What is known of a queue: `session_id`, of the session that locks it.
        self.queues: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        self.client = consul.Consul(**self._client_options())

    def _client_options(self) -> dict[str, Any]:
        client = self.connection.client
        options: dict[str, Any] = {
            "host": client.hostname or DEFAULT_HOST,
            "port": int(client.port or self.connection.default_port),
        }
        if client.password:
            options["token"] = client.password
        if client.ssl:
            options["scheme"] = "https"
        if isinstance(client.ssl, dict):
            if client.ssl.get("ca_certs"):
                options["verify"] = client.ssl["ca_certs"]
            if client.ssl.get("certfile"):
                options["cert"] = (client.ssl["certfile"], client.ssl.get("keyfile"))
        return options

    # Keys

    def _lock_key(self, queue: str) -> str:
        return f"{self.prefix}/{queue}.lock"

    def _key_prefix(self, queue: str) -> str:
        return f"{self.prefix}/{queue}"

    def _message_prefix(self, queue: str) -> str:
        return f"{self._key_prefix(queue)}/msg/"

    @cached_property
    def lock_name(self) -> str:
        """Who holds locks: the host."""
        return socket.gethostname()

    # Locks

    def _get_or_create_session(self, queue: str) -> str:
        """Return a session that lives, and may hold the lock of ``queue``."""
        session_id = self.queues[queue].get("session_id")
        if session_id is not None:
            session_id = self._renew_existing_session(session_id)
        if session_id is None:
            session_id = self._create_new_session()
        self.queues[queue]["session_id"] = session_id
        return session_id

    def _renew_existing_session(self, session_id: str) -> str | None:
        """Renew a session; None if it has ended."""
        try:
            self.client.session.renew(session_id=session_id)
        except consul.NotFound:
            return None
        return session_id

    def _create_new_session(self) -> str:
        return self.client.session.create(name=self.lock_name, ttl=self.session_ttl)

    @contextmanager
    def _queue_lock(self, queue: str, raising: type[Exception] = LockError) -> Iterator[None]:
        """Hold the lock of a queue.

        Arguments:
            queue: its name.
            raising: the error when another consumer keeps it.
        """
        give_up = monotonic() + LOCK_PATIENCE
        pause = 0.01
        while not self._acquire_lock(queue, raising=raising):
            if monotonic() >= give_up:
                raise raising(f"another consumer holds the lock of the queue {queue!r}")
            sleep(pause)
            pause = min(2 * pause, 0.1)
        try:
            yield
        finally:
            self._release_lock(queue)

    def _acquire_lock(self, queue: str, raising: type[Exception] = LockError) -> bool:
        """Try once to take the lock of a queue; returns whether it is ours."""
        return self.client.kv.put(
            key=self._lock_key(queue),
            acquire=self._get_or_create_session(queue),
            value=self.lock_name,
        )

    def _release_lock(self, queue: str) -> None:
        """Give up the lock of a queue."""
        # Not by deleting the key: if we were slow it may be another's by now.
        self.client.kv.put(
            key=self._lock_key(queue),
            release=self.queues[queue]["session_id"],
            value=self.lock_name,
        )

    def _destroy_session(self, queue: str) -> None:
        """End the session of a queue; its lock is free then."""
        session_id = self.queues.pop(queue, {}).get("session_id")
        if session_id is not None:
            self.client.session.destroy(session_id)

    def close(self) -> None:
        """Cancel the consumers, put unacknowledged messages back, and close."""
        super().close()
        for queue in list(self.queues):
            # They end by themselves soon, too.
            with suppress(consul.ConsulException, RequestException):
                self._destroy_session(queue)

    # Queues

    def _messages(self, queue: str) -> list[dict[str, Any]]:
        """The messages of a queue, in order."""
        _, items = self.client.kv.get(key=self._message_prefix(queue), recurse=True)
        # Written once: the index of that is its place. The keys' order is that of a clock.
        return sorted(items or (), key=lambda item: item["ModifyIndex"])

    def _new_queue(self, queue: str, **_: Any) -> bool:  # type: ignore[override]
        return self.client.kv.put(key=self._key_prefix(queue), value=None)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        _, item = self.client.kv.get(key=self._key_prefix(queue))
        return item is not None or self._size(queue) > 0

    def _delete(self, queue: str, *args: Any, **_: Any) -> None:
        self._destroy_session(queue)
        self.client.kv.delete(key=self._message_prefix(queue), recurse=True)
        self.client.kv.delete(key=self._key_prefix(queue))
        self.client.kv.delete(key=self._lock_key(queue))

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        # As Kombu's, which takes the first key.
        key = f"{self._message_prefix(queue)}{int(monotonic() * 1000)}_{uuid()}"
        if not self.client.kv.put(key=key, value=dumps(payload), cas=0):
            raise ChannelError(f"Cannot add the key {key!r}: it is there already")

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """Take the oldest message.

        Raises:
            queue.Empty: there is none, or others are taking them.
        """
        # Most looks find nothing, and need no lock for that.
        items = self._messages(queue)
        if not items:
            raise Empty()
        with self._queue_lock(queue, raising=Empty):
            for item in items:
                # Deleting what another consumer has taken meanwhile would succeed as well.
                _, present = self.client.kv.get(key=item["Key"])
                if present and self.client.kv.delete(key=item["Key"], cas=item["ModifyIndex"]):
                    return loads(item["Value"])
        raise Empty()

    def _purge(self, queue: str) -> int:
        size = self._size(queue)
        self.client.kv.delete(key=self._message_prefix(queue), recurse=True)
        return size

    def _size(self, queue: str) -> int:
        _, items = self.client.kv.get(key=self._message_prefix(queue), recurse=True)
        return len(items or ())


class Transport(virtual.Transport):
    """A transport over Consul's key/value store."""

    Channel = Channel

    default_port = DEFAULT_PORT
    driver_type = "consul"
    driver_name = "consul"

    connection_errors = virtual.Transport.connection_errors + (
        (consul.ConsulException, RequestException) if consul else ()
    )
    channel_errors = virtual.Transport.channel_errors + (
        (consul.ConsulException,) if consul else ()
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # To ask whether the server is there.
        self._consul: Any = None

    def establish_connection(self) -> Any:
        """Connect.

        Raises:
            ImportError: python-consul2 is not installed.
        """
        if consul is None:
            raise missing("consul", "python-consul2", "consul")
        connection = super().establish_connection()
        self._consul = self.channels[-1].client
        try:
            self._consul.agent.self()
        except BaseException:
            self.close_connection(connection)
            raise
        return connection

    def verify_connection(self, connection: Any) -> bool:
        """Whether the server answers."""
        try:
            self._consul.agent.self()
        except (consul.ConsulException, RequestException) as exc:
            logger.debug("the server does not answer: %s", exc)
            return False
        return True

    def driver_version(self) -> str:
        """Version of python-consul2."""
        try:
            return version("python-consul2")
        except PackageNotFoundError:
            return "N/A"
