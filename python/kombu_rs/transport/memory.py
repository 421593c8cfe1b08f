"""``memory://``: queues in this process, shared by all its connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping
from queue import Empty
from queue import Queue as PlainQueue

from .. import _native
from .._typing import Any
from . import native_virtual

__all__ = ("Channel", "Transport")

_store = _native.memory_store()


class Queue:
    """The messages of a queue: what :class:`queue.Queue` has, on the native store.

    Arguments:
        name: the queue's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def put(self, item: dict[str, Any], block: bool = True, timeout: float | None = None) -> None:
        """Put a message into the queue; it is never full."""
        _store.put(self.name, item)

    def put_nowait(self, item: dict[str, Any]) -> None:
        """Put a message into the queue."""
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> dict[str, Any]:
        """Take the next message.

        Arguments:
            block: wait for one.
            timeout: at most so many seconds. Default: for ever.

        Raises:
            queue.Empty: there is none.
        """
        message = _store.get(self.name, timeout if block else 0.0)
        if message is None:
            raise Empty()
        return message

    def get_nowait(self) -> dict[str, Any]:
        """Take the next message.

        Raises:
            queue.Empty: there is none.
        """
        return self.get(block=False)

    def qsize(self) -> int:
        """How many messages are in it."""
        return _store.size(self.name)

    def empty(self) -> bool:
        """Whether there are none."""
        return not self.qsize()

    def full(self) -> bool:
        """Never."""
        return False

    @property
    def queue(self) -> deque[dict[str, Any]]:
        """Its messages as they are now, the next one first."""
        return deque(_native.memory_messages(self.name))

    def __repr__(self) -> str:
        return f"<Queue: {self.name!r}, {self.qsize()} messages>"


class Queues(Mapping[str, Queue]):
    """All queues of this process by name."""

    def __init__(self) -> None:
        self._seen: dict[str, Queue] = {}

    def _view(self, name: str) -> Queue:
        return self._seen.setdefault(name, Queue(name))

    def __getitem__(self, name: str) -> Queue:
        if not _store.has(name):
            raise KeyError(name)
        return self._view(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_native.memory_queues())

    def __len__(self) -> int:
        return len(_native.memory_queues())

    def __delitem__(self, name: str) -> None:
        del self._seen[self[name].name]
        _store.delete(name)

    def pop(self, name: str, *default: Any) -> Any:
        """Delete a queue.

        Returns:
            ``default`` when there is no such queue.

        Raises:
            KeyError: there is no such queue, and no ``default``.
        """
        try:
            queue = self[name]
        except KeyError:
            if default:
                return default[0]
            raise
        del self[name]
        return queue

    def clear(self) -> None:
        """Delete all queues. Exchanges and bindings stay."""
        self._seen.clear()
        _native.clear_memory_queues()


class OwnQueues:
    """What a channel does with queues of its own: see :attr:`Channel.queues`.

    Arguments:
        channel: whose.
        queues: where they are, by name.
    """

    def __init__(self, channel: Channel, queues: MutableMapping[str, Any]) -> None:
        self.channel = channel
        self.queues = queues

    def _queue_for(self, queue: str) -> Any:
        if queue not in self.queues:
            self.queues[queue] = PlainQueue()
        return self.queues[queue]

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self._queue_for(queue)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return queue in self.queues

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        self._queue_for(queue).put(message)

    def _put_fanout(
        self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any
    ) -> None:
        for queue in self.channel._lookup(exchange, routing_key or ""):
            self._put(queue, message)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        return self._queue_for(queue).get(block=False)

    def _size(self, queue: str) -> int:
        return int(self._queue_for(queue).qsize())

    def _purge(self, queue: str) -> int:
        taken = 0
        while self._size(queue):
            self._get(queue)
            taken += 1
        return taken

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self.queues.pop(queue, None)


class _QueuesOfChannel:
    """The attribute :attr:`Channel.queues`."""

    def __init__(self, shared: Queues) -> None:
        self.shared = shared

    def __get__(self, channel: Channel | None, owner: Any = None) -> Any:
        return self.shared if channel is None else vars(channel).get("queues", self.shared)

    def __set__(self, channel: Channel, queues: MutableMapping[str, Any]) -> None:
        vars(channel)["queues"] = queues
        own = OwnQueues(channel, queues)
        for operation in vars(OwnQueues):
            if operation.startswith("_") and not operation.startswith("__"):
                setattr(channel, operation, getattr(own, operation))


class Channel(native_virtual.Channel):
    """A channel on this process's queues."""

    #: All queues of this process. A channel that is given a mapping (``channel.queues = {}``) has
    #: queues of its own, :class:`queue.Queue` by name.
    queues: Any = _QueuesOfChannel(Queues())

    def _queue_for(self, queue: str) -> Queue:
        """The messages of a queue, which is made if it is not there."""
        self._store.declare(queue)
        return self.queues[queue]


class Transport(native_virtual.Transport):
    """Queues in this process."""

    Channel = Channel

    #: Exchanges and bindings of this process.
    state = global_state = native_virtual.State(_store)

    scheme = "memory"
    can_parse_url = False
    driver_type = "memory"
    driver_name = "memory"

    # Celery makes one event loop per process for transports that say they can use one, and runs
    # several workers in threads of one process here: in tests. It can be put into a loop all the
    # same (`register_with_event_loop`).
    implements = native_virtual.Transport.implements.extend(asynchronous=False)

    def __init__(self, client: Any = None, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.state = self.global_state

    @classmethod
    def _url(cls, client: Any) -> str:
        return "memory://"

    def driver_version(self) -> str:
        """The memory transport has no version."""
        return "N/A"
