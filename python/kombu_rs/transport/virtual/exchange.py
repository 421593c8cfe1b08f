"""Exchange types: who gets a message."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..._typing import Any, ClassVar

# One row of an exchange's table: routing key, pattern (if the type has them), queue.
Row = tuple[str, Any, str]


class ExchangeType:
    """Base of all types.

    Arguments:
        channel: delivers with this channel's ``_put``.
    """

    type: ClassVar[str | None] = None

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def lookup(
        self, table: Iterable[Row], exchange: str, routing_key: str, default: Any
    ) -> Collection[str]:
        """Return the queues that get a message.

        Arguments:
            table: the exchange's bindings.
            exchange: its name.
            routing_key: the message's.
            default: where undeliverable messages go.
        """
        raise NotImplementedError("subclass responsibility")

    def prepare_bind(self, queue: str, exchange: str, routing_key: str, arguments: Any) -> Row:
        """Return the row of the table for a binding."""
        return routing_key, None, queue

    def equivalent(
        self,
        prev: dict[str, Any],
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: dict[str, Any] | None,
    ) -> bool:
        """Whether an exchange may be declared so again, having been declared as ``prev``."""
        return (
            type == prev["type"]
            and durable == prev["durable"]
            and auto_delete == prev["auto_delete"]
            and (arguments or {}) == (prev["arguments"] or {})
        )


class DirectExchange(ExchangeType):
    """Queues that are bound with exactly the message's routing key."""

    type: ClassVar[str | None] = "direct"

    def lookup(
        self, table: Iterable[Row], exchange: str, routing_key: str, default: Any
    ) -> set[str]:
        """Return the queues that get a message."""
        return {queue for key, _, queue in table if key == routing_key}

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Put a message into the queues that get it."""
        put = self.channel._put
        for queue in self.channel._lookup(exchange, routing_key):
            put(queue, message, **kwargs)


class TopicExchange(ExchangeType):
    """Queues that are bound with a pattern of words, where ``*`` is one and ``#`` any."""

    type: ClassVar[str | None] = "topic"

    #: Regular expression of a word with a meaning.
    wildcards: ClassVar[dict[str, str]] = {"*": r"[^\.]+", "#": r".*?"}

    # Compiled patterns, for all exchanges.
    _compiled: ClassVar[dict[str, Any]] = {}

    def lookup(
        self, table: Iterable[Row], exchange: str, routing_key: str, default: Any
    ) -> set[str]:
        """Return the queues that get a message."""
        return {queue for _, pattern, queue in table if self._match(pattern, routing_key)}

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Put a message into the queues that get it."""
        put = self.channel._put
        deadletter = self.channel.deadletter_queue
        for queue in self.channel._lookup(exchange, routing_key):
            if queue and queue != deadletter:
                put(queue, message, **kwargs)

    def prepare_bind(self, queue: str, exchange: str, routing_key: str, arguments: Any) -> Row:
        """Return the row of the table for a binding, with its pattern."""
        return routing_key, self.key_to_pattern(routing_key), queue

    def key_to_pattern(self, rkey: str) -> str:
        """Return the regular expression for a binding's key."""
        import re

        words = (self.wildcards.get(word) or re.escape(word) for word in rkey.split("."))
        return "^{}$".format(r"\.".join(words))

    def _match(self, pattern: str, string: str) -> Any:
        compiled = self._compiled.get(pattern)
        if compiled is None:
            import re

            compiled = self._compiled[pattern] = re.compile(pattern)
        return compiled.match(string)


class FanoutExchange(ExchangeType):
    """All queues that are bound.

    Only channels that say ``supports_fanout`` deliver: each message must reach consumers in
    other processes as well.
    """

    type: ClassVar[str | None] = "fanout"

    def lookup(
        self, table: Iterable[Row], exchange: str, routing_key: str, default: Any
    ) -> set[str]:
        """Return the queues that get a message."""
        return {queue for _, _, queue in table}

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Hand a message to the channel's fanout."""
        if self.channel.supports_fanout:
            self.channel._put_fanout(exchange, message, routing_key, **kwargs)


#: The types that every channel has.
STANDARD_EXCHANGE_TYPES: dict[str, type[ExchangeType]] = {
    "direct": DirectExchange,
    "topic": TopicExchange,
    "fanout": FanoutExchange,
}
