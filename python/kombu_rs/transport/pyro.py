"""Queues in a process of their own, reached through Pyro4.

Needs Pyro4 (``pip install kombu-rs[pyro]``), a running Pyro name server, and the broker::

    pyro4-ns
    python -m kombu_rs.transport.pyro

Then ``Connection("pyro://localhost/kombu.broker")``: the host and port (default: Pyro's setting
``NS_PORT``, 9090) are the name server's, the virtual host is the broker's name there. Client and
broker may be stock Kombu's or ours, in any combination.

Direct and topic exchanges; no fanout. Each process knows the exchanges and bindings that it
declared itself. Messages live in the broker's memory. Pyro asks for no password: whoever reaches
the broker may use it.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from queue import Empty
from threading import Lock
from typing import Any

from ..log import get_logger
from ..utils.objects import cached_property
from . import base, virtual
from ._libraries import missing

try:
    import Pyro4 as pyro
except ImportError:
    pyro = None

__all__ = ("Channel", "KombuBroker", "Transport")

DEFAULT_PORT = 9090
E_NAMESERVER = "Unable to locate pyro nameserver on host {0.hostname}"
E_LOOKUP = "Unable to lookup '{0.virtual_host}' in pyro nameserver on host {0.hostname}"

logger = get_logger(__name__)


class Channel(virtual.Channel):
    """A channel over the broker's queues.

    Arguments:
        connection: the :class:`Transport`.
    """

    def queues(self) -> list[str]:
        """Names of the broker's queues."""
        return self.shared_queues.get_queue_names()

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self.shared_queues.new_queue(queue)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.shared_queues.has_queue(queue)

    def _queue_for(self, queue: str) -> str:
        """Make ``queue`` if it is not there; returns its name."""
        self.shared_queues.new_queue(queue)
        return queue

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        try:
            return self.shared_queues.get(queue)
        except KeyError:  # deleted, or the broker was restarted
            raise Empty() from None

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        try:
            self.shared_queues.put(queue, message)
        except KeyError:
            self.shared_queues.put(self._queue_for(queue), message)

    def _size(self, queue: str) -> int:
        try:
            return self.shared_queues.size(queue)
        except KeyError:
            return 0

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        with suppress(KeyError):  # it had several bindings, or another process deleted it
            self.shared_queues.delete(queue)

    def _purge(self, queue: str) -> int:
        try:
            return self.shared_queues.purge(queue)
        except KeyError:
            return 0
        except TypeError:  # stock brokers cannot
            removed = 0
            with suppress(Empty):
                while True:
                    self._get(queue)
                    removed += 1
            return removed

    def after_reply_message_received(self, queue: str) -> None:
        """Keep the queue: who answers has no binding to make it again with."""

    @cached_property
    def shared_queues(self) -> Any:
        """The broker, a proxy of :class:`KombuBroker`.

        Raises:
            ImportError: Pyro4 is not installed.
            Pyro4.errors.NamingError: there is no name server, or no such broker.
        """
        return self.connection.shared_queues


class Transport(virtual.Transport):
    """Pyro as a broker.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
    """

    Channel = Channel

    #: Exchanges and bindings that this process declared.
    global_state = virtual.BrokerState()

    default_port = DEFAULT_PORT
    driver_type = driver_name = "pyro"

    connection_errors = (
        base.Transport.connection_errors
        if pyro is None
        else (
            *base.Transport.connection_errors,
            pyro.errors.CommunicationError,
            pyro.errors.NamingError,
        )
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.state = self.global_state

    def establish_connection(self) -> Any:
        """Connect; the name server is asked at the first use.

        Raises:
            ImportError: Pyro4 is not installed.
        """
        self._require()
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        """Close all channels, and the connection to the broker."""
        super().close_connection(connection)
        proxy = self.__dict__.pop("shared_queues", None)
        if proxy is not None:
            proxy._pyroRelease()

    def _require(self) -> None:
        if pyro is None:
            raise missing("pyro", "Pyro4", "pyro")

    def _open(self) -> Any:
        self._require()
        client = self.client
        port = client.port or pyro.config.NS_PORT
        where = f" port {port}"
        try:
            name_server = pyro.locateNS(host=client.hostname, port=port)
        except pyro.errors.NamingError as exc:
            raise pyro.errors.NamingError(E_NAMESERVER.format(client) + where) from exc
        try:
            uri = name_server.lookup(client.virtual_host)
        except pyro.errors.NamingError as exc:
            raise pyro.errors.NamingError(E_LOOKUP.format(client) + where) from exc
        logger.debug("%s is at %s", client.virtual_host, uri)
        return pyro.Proxy(uri)

    def driver_version(self) -> str:
        """Version of Pyro4; ``N/A`` when it is not installed."""
        return "N/A" if pyro is None else pyro.__version__

    @cached_property
    def shared_queues(self) -> Any:
        """The broker, see :attr:`Channel.shared_queues`."""
        return self._open()


def _exposed(cls: Any) -> Any:
    """Let Pyro's clients call the public methods of one instance of ``cls``."""
    return cls if pyro is None else pyro.behavior(instance_mode="single")(pyro.expose(cls))


@_exposed
class KombuBroker:
    """The queues that all clients share; ``python -m kombu_rs.transport.pyro`` serves one."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Any]] = {}
        # Pyro calls from a thread for each client.
        self._lock = Lock()

    def get_queue_names(self) -> list[str]:
        """Names of all queues."""
        with self._lock:
            return list(self._queues)

    def new_queue(self, queue: str) -> None:
        """Make a queue; one that is there stays as it is."""
        with self._lock:
            self._queues.setdefault(queue, deque())

    def has_queue(self, queue: str) -> bool:
        """Whether there is that queue."""
        return queue in self._queues

    def get(self, queue: str) -> Any:
        """Take the next message.

        Raises:
            queue.Empty: there is none.
            KeyError: there is no such queue.
        """
        with self._lock:
            messages = self._queues[queue]
            if not messages:
                raise Empty()
            return messages.popleft()

    def put(self, queue: str, message: Any) -> None:
        """Add a message.

        Raises:
            KeyError: there is no such queue.
        """
        with self._lock:
            self._queues[queue].append(message)

    def size(self, queue: str) -> int:
        """How many messages are in a queue.

        Raises:
            KeyError: there is no such queue.
        """
        return len(self._queues[queue])

    def delete(self, queue: str) -> None:
        """Delete a queue with its messages.

        Raises:
            KeyError: there is no such queue.
        """
        with self._lock:
            del self._queues[queue]

    def purge(self, queue: str) -> int:
        """Remove all messages of a queue; returns how many.

        Raises:
            KeyError: there is no such queue.
        """
        with self._lock:
            messages = self._queues[queue]
            size = len(messages)
            messages.clear()
            return size


def _serve() -> None:
    """Serve a broker under the name ``kombu.broker`` until the process ends."""
    if pyro is None:
        raise SystemExit("the broker needs Pyro4: pip install 'kombu-rs[pyro]'")
    host, port = pyro.config.NS_HOST or "localhost", pyro.config.NS_PORT
    print(f"Kombu's queues over Pyro: with the name server at {host}:{port} they are")
    print(f"pyro://{host}:{port}/kombu.broker", flush=True)
    pyro.Daemon.serveSimple({KombuBroker: "kombu.broker"}, ns=True, verbose=False)


if pyro is not None:
    from Pyro4.util import SerializerBase

    # How Empty travels: stock Kombu knows the name under which it is documented, but stock
    # brokers send the one under which it is defined.
    for _name in ("queue.Empty", "_queue.Empty"):
        SerializerBase.register_dict_to_class(_name, lambda name, data: Empty())
    SerializerBase.register_class_to_dict(
        Empty,
        lambda exc: {
            "__class__": "queue.Empty",
            "__exception__": True,
            "args": exc.args,
            "attributes": {},
        },
    )

if __name__ == "__main__":
    _serve()
