"""What a broker knows: exchanges and bindings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ..._typing import Any, NamedTuple


class binding_key_t(NamedTuple):
    """What tells one binding from another."""

    queue: str
    exchange: str
    routing_key: str


class queue_binding_t(NamedTuple):
    """A binding of a queue."""

    exchange: str
    routing_key: str
    arguments: Any


class queue_declare_ok_t(NamedTuple):
    """The answer to a queue's declaration."""

    queue: str
    message_count: int
    consumer_count: int


class BrokerState:
    """Exchanges and bindings of a virtual broker.

    Arguments:
        exchanges: begin with these.
    """

    #: Declarations by name; ``table`` in each are its bindings, as its type prepared them.
    exchanges: Any = None
    #: Arguments by :class:`binding_key_t`.
    bindings: Any = None
    #: Keys into :attr:`bindings` by queue.
    queue_index: Any = None

    def __init__(self, exchanges: Any = None) -> None:
        self.exchanges = {} if exchanges is None else exchanges
        self.bindings = {}
        self.queue_index = defaultdict(set)

    def clear(self) -> None:
        """Forget everything."""
        self.exchanges.clear()
        self.bindings.clear()
        self.queue_index.clear()

    def has_binding(self, queue: str, exchange: str, routing_key: str) -> bool:
        """Whether there is that binding."""
        return binding_key_t(queue, exchange, routing_key) in self.bindings

    def binding_declare(self, queue: str, exchange: str, routing_key: str, arguments: Any) -> None:
        """Add a binding; one that is there stays as it is."""
        key = binding_key_t(queue, exchange, routing_key)
        self.bindings.setdefault(key, arguments)
        self.queue_index[queue].add(key)

    def binding_delete(self, queue: str, exchange: str, routing_key: str) -> None:
        """Remove a binding, if it is there."""
        key = binding_key_t(queue, exchange, routing_key)
        if key in self.bindings:
            del self.bindings[key]
            self.queue_index[queue].discard(key)

    def queue_bindings_delete(self, queue: str) -> None:
        """Remove all bindings of a queue."""
        for key in self.queue_index.pop(queue, ()):
            self.bindings.pop(key, None)

    def queue_bindings(self, queue: str) -> Iterator[queue_binding_t]:
        """Yield the bindings of a queue."""
        for key in tuple(self.queue_index.get(queue, ())):
            yield queue_binding_t(key.exchange, key.routing_key, self.bindings[key])
