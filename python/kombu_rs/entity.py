"""Exchanges, queues and bindings: what is declared on a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ._typing import TYPE_CHECKING, Any, ClassVar
from .abstract import MaybeChannelBound, Object
from .exceptions import ContentDisallowed
from .serialization import prepare_accept_content

if TYPE_CHECKING:
    from typing_extensions import Self

    from .message import Message
    from .protocols import Accept, Channel, ChannelOrConnection, Declarable
    from .transport.virtual.state import queue_declare_ok_t

__all__ = ("Exchange", "Queue", "binding", "maybe_delivery_mode")

TRANSIENT_DELIVERY_MODE = 1
PERSISTENT_DELIVERY_MODE = 2
DELIVERY_MODES = {
    "transient": TRANSIENT_DELIVERY_MODE,
    "persistent": PERSISTENT_DELIVERY_MODE,
}

# AMQP 0-9-1 reserves this prefix: the broker made those exchanges, declaring them is an error.
INTERNAL_EXCHANGE_PREFIX = ("amq.",)


def _reprstr(s: Any) -> str:
    """Text for use inside a ``repr``: quoted only when it would be invisible otherwise."""
    text = repr(s)
    return text if text == "''" or not text.startswith("'") else text[1:-1]


def pretty_bindings(bindings: Any) -> str:
    """Return bindings as ``[exchange->key, ...]``, for ``repr``."""
    return "[{}]".format(", ".join(str(b) for b in bindings))


def maybe_delivery_mode(
    v: str | int | None,
    modes: dict[str, int] | None = None,
    default: int = PERSISTENT_DELIVERY_MODE,
) -> int:
    """Return the delivery mode as AMQP's number.

    Arguments:
        v: ``"transient"``, ``"persistent"``, or the number itself (1, 2). Empty: ``default``.
        modes: other names, instead of :data:`DELIVERY_MODES`.
        default: used when ``v`` is empty.

    Raises:
        KeyError: the name is not one of ``modes``.
    """
    if not v:
        return default
    if hasattr(v, "__index__"):
        return int(v)
    names = DELIVERY_MODES if modes is None else modes
    try:
        return names[v]
    except KeyError:
        raise KeyError(
            f"unknown delivery_mode {v!r}: use one of {', '.join(sorted(names))}, or its number"
        ) from None


def _exchange_name(exchange: Any) -> str:
    """The name of an exchange that is given as an object or by name."""
    return exchange.name if isinstance(exchange, Exchange) else exchange


class Exchange(MaybeChannelBound):
    """An exchange declaration.

    Arguments:
        name: the name; empty is the default exchange, which routes by queue name.
        type: ``direct`` (default), ``topic``, ``fanout``, ``headers``, or what the broker adds.
        channel: bind to this channel (or connection) at once.
        durable: survive a restart of the broker. Default True.
        auto_delete: delete when the last queue is unbound. Default False.
        delivery_mode: default for messages published here: ``"persistent"`` or ``"transient"``.
        arguments: further arguments of the declaration.
        no_declare: never declare it. Default False.
        passive: only check that it is there. Default False.
    """

    TRANSIENT_DELIVERY_MODE: ClassVar[int] = TRANSIENT_DELIVERY_MODE
    PERSISTENT_DELIVERY_MODE: ClassVar[int] = PERSISTENT_DELIVERY_MODE

    name: str = ""
    type: str = "direct"
    durable = True
    auto_delete = False
    passive = False
    delivery_mode: int | None = None
    no_declare = False
    arguments: dict[str, Any] | None

    attrs: tuple[tuple[str, Any], ...] = (
        ("name", None),
        ("type", None),
        ("arguments", None),
        ("durable", bool),
        ("passive", bool),
        ("auto_delete", bool),
        ("delivery_mode", lambda m: DELIVERY_MODES.get(m) or m),
        ("no_declare", bool),
    )

    def __init__(
        self,
        name: str = "",
        type: str = "",
        channel: ChannelOrConnection | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name or self.name
        self.type = type or self.type
        self.maybe_bind(channel)

    def __hash__(self) -> int:
        # Not by class: an exchange and the same one in a subclass are one entry of a set.
        return hash(f"E|{self.name}")

    def _can_declare(self) -> bool:
        """Whether the broker lets us declare it: has a name that is not one of its own."""
        return not self.no_declare and bool(
            self.name and not self.name.startswith(INTERNAL_EXCHANGE_PREFIX)
        )

    def declare(
        self, nowait: bool = False, passive: bool | None = None, channel: Channel | None = None
    ) -> Any:
        """Declare the exchange; does nothing for the default and the broker's own ones.

        Arguments:
            nowait: do not wait for the broker's answer.
            passive: only check that it exists. Default: the attribute.
            channel: use this channel instead of the one it is bound to.

        Raises:
            NotBoundError: there is no channel.
        """
        if not self._can_declare():
            return None
        return (channel or self.channel).exchange_declare(
            exchange=self.name,
            type=self.type,
            durable=self.durable,
            auto_delete=self.auto_delete,
            arguments=self.arguments,
            nowait=nowait,
            passive=self.passive if passive is None else passive,
        )

    def bind_to(
        self,
        exchange: Exchange | str = "",
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        channel: Channel | None = None,
        **kwargs: Any,
    ) -> Any:
        """Bind this exchange to another: messages of ``exchange`` then come here too."""
        where: Any = channel or self.channel
        return where.exchange_bind(
            destination=self.name,
            source=_exchange_name(exchange),
            routing_key=routing_key,
            nowait=nowait,
            arguments=arguments,
        )

    def unbind_from(
        self,
        source: Exchange | str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        channel: Channel | None = None,
    ) -> Any:
        """Undo :meth:`bind_to`."""
        where: Any = channel or self.channel
        return where.exchange_unbind(
            destination=self.name,
            source=_exchange_name(source),
            routing_key=routing_key,
            nowait=nowait,
            arguments=arguments,
        )

    def Message(
        self,
        body: Any,
        delivery_mode: int | str | None = None,
        properties: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Make a message for this exchange, with its default delivery mode.

        Arguments:
            body: the encoded body.
            delivery_mode: overrides the exchange's default.
            properties: further AMQP properties.
            kwargs: go to the channel's ``prepare_message``.
        """
        properties = {} if properties is None else properties
        if delivery_mode is None:
            delivery_mode = self.delivery_mode
        properties["delivery_mode"] = maybe_delivery_mode(delivery_mode)
        if isinstance(body, str) and kwargs.get("content_encoding") is None:
            kwargs["content_encoding"] = "utf-8"
        return self.channel.prepare_message(body, properties=properties, **kwargs)

    def publish(
        self,
        message: Any,
        routing_key: str | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        exchange: str | None = None,
    ) -> Any:
        """Publish a message, or a body from which :meth:`Message` makes one."""
        if isinstance(message, str):
            message = self.Message(message)
        channel: Any = self.channel
        return channel.basic_publish(
            message,
            exchange=exchange or self.name,
            routing_key=routing_key,
            mandatory=mandatory,
            immediate=immediate,
        )

    def delete(self, if_unused: bool = False, nowait: bool = False) -> Any:
        """Delete the exchange on the broker; with ``if_unused`` only when nothing is bound."""
        return self.channel.exchange_delete(exchange=self.name, if_unused=if_unused, nowait=nowait)

    def binding(
        self,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        unbind_arguments: dict[str, Any] | None = None,
    ) -> binding:
        """Return a :class:`binding` from this exchange."""
        return binding(self, routing_key, arguments, unbind_arguments)

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Exchange):
            return NotImplemented
        return (
            self.name == other.name
            and self.type == other.type
            and self.arguments == other.arguments
            and self.durable == other.durable
            and self.auto_delete == other.auto_delete
            and self.delivery_mode == other.delivery_mode
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __repr__(self) -> str:
        return self._repr_entity(str(self))

    def __str__(self) -> str:
        return f"Exchange {_reprstr(self.name)}({self.type})"

    @property
    def can_cache_declaration(self) -> bool:  # type: ignore[override]
        """Whether one declaration per connection is enough: not when it deletes itself."""
        return not self.auto_delete


class binding(Object):
    """A binding of a queue or exchange to an exchange.

    Arguments:
        exchange: the :class:`Exchange` that messages come from.
        routing_key: the key or pattern.
        arguments: arguments of the bind.
        unbind_arguments: arguments of the unbind.
    """

    attrs: tuple[tuple[str, Any], ...] = (
        ("exchange", None),
        ("routing_key", None),
        ("arguments", None),
        ("unbind_arguments", None),
    )

    def __init__(
        self,
        exchange: Exchange | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        unbind_arguments: dict[str, Any] | None = None,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.arguments = arguments
        self.unbind_arguments = unbind_arguments

    def declare(self, channel: Channel | None, nowait: bool = False) -> None:
        """Declare the exchange of this binding, if it has a name."""
        if self.exchange and self.exchange.name:
            self.exchange.declare(channel=channel, nowait=nowait)

    def bind(
        self, entity: Declarable, nowait: bool = False, channel: Channel | None = None
    ) -> None:
        """Bind ``entity`` (a queue or exchange) with this binding."""
        entity.bind_to(
            exchange=self.exchange or "",
            routing_key=self.routing_key,
            arguments=self.arguments,
            nowait=nowait,
            channel=channel,
        )

    def unbind(
        self, entity: Declarable, nowait: bool = False, channel: Channel | None = None
    ) -> None:
        """Undo :meth:`bind`."""
        entity.unbind_from(
            self.exchange or "",
            routing_key=self.routing_key,
            arguments=self.unbind_arguments,
            nowait=nowait,
            channel=channel,
        )

    def __repr__(self) -> str:
        return f"<binding: {self}>"

    def __str__(self) -> str:
        source = "" if self.exchange is None else self.exchange.name
        return f"{_reprstr(source)}->{_reprstr(self.routing_key)}"


class Queue(MaybeChannelBound):
    """A queue declaration.

    Arguments:
        name: the name; empty lets the broker make one at :meth:`declare`.
        exchange: an :class:`Exchange`, or its name. A list or tuple here means ``bindings``.
        routing_key: the key (or pattern) to bind with.
        channel: bind to this channel (or connection) at once.
        bindings: several :class:`binding` instead of ``exchange`` and ``routing_key``.
        on_declared: called with ``(name, messages, consumers)`` when declared.
        durable: survive a restart of the broker. Default True.
        exclusive: for this connection only; implies ``auto_delete``. Default False.
        auto_delete: delete when the last consumer is gone. Default False.
        expires: delete after so many seconds without use.
        message_ttl: drop messages after so many seconds.
        max_length: at most so many messages.
        max_length_bytes: at most so many bytes of bodies.
        max_priority: priorities 0 to this number.
        queue_arguments, binding_arguments, consumer_arguments: further AMQP arguments.
        no_ack: deliveries need no acknowledgement. Default False.
        alias: a name for use in the application; not known to the broker.
        no_declare: never declare it. Default False.
    """

    ContentDisallowed = ContentDisallowed

    name: str = ""
    exchange: Exchange = Exchange("")
    routing_key: str = ""
    durable = True
    exclusive = False
    auto_delete: bool = False
    no_ack = False
    queue_arguments: dict[str, Any] | None
    binding_arguments: dict[str, Any] | None
    consumer_arguments: dict[str, Any] | None
    alias: str | None
    no_declare: bool | None
    expires: float | None
    message_ttl: float | None
    max_length: int | None
    max_length_bytes: int | None
    max_priority: int | None

    attrs: tuple[tuple[str, Any], ...] = (
        ("name", None),
        ("exchange", None),
        ("routing_key", None),
        ("queue_arguments", None),
        ("binding_arguments", None),
        ("consumer_arguments", None),
        ("durable", bool),
        ("exclusive", bool),
        ("auto_delete", bool),
        ("no_ack", None),
        ("alias", None),
        ("bindings", list),
        ("no_declare", bool),
        ("expires", float),
        ("message_ttl", float),
        ("max_length", int),
        ("max_length_bytes", int),
        ("max_priority", int),
    )

    def __init__(
        self,
        name: str = "",
        exchange: Exchange | str | Iterable[binding] | None = None,
        routing_key: str = "",
        channel: ChannelOrConnection | None = None,
        bindings: Iterable[binding] | None = None,
        on_declared: Callable[[str, int, int], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name or self.name
        if isinstance(exchange, str):
            self.exchange = Exchange(exchange)
        elif isinstance(exchange, Exchange):
            self.exchange = exchange
        self.routing_key = routing_key or self.routing_key
        self.bindings: set[binding] = set(bindings or [])
        self.on_declared = on_declared
        if isinstance(exchange, (list, tuple, set)):
            self.bindings |= set(exchange)
        if self.bindings:
            # Each binding has its own exchange.
            self.exchange = None  # type: ignore[assignment]
        if self.exclusive:
            self.auto_delete = True
        self.maybe_bind(channel)

    def bind(self, channel: ChannelOrConnection) -> Self:
        """Return a copy bound to ``channel``, that calls the same ``on_declared``."""
        on_declared = self.on_declared
        bound = super().bind(channel)
        bound.on_declared = on_declared
        return bound

    def __hash__(self) -> int:
        return hash(f"Q|{self.name}")

    def when_bound(self) -> None:
        """Bind the exchange to the same channel."""
        if self.exchange:
            self.exchange = self.exchange(self.channel)

    def declare(self, nowait: bool = False, channel: Channel | None = None) -> str:
        """Declare the exchange, the queue and its bindings.

        Arguments:
            nowait: do not wait for the broker's answers.
            channel: use this channel instead of the one it is bound to.

        Returns:
            The queue's name, as the broker says when it was empty.
        """
        if not self.no_declare:
            self._create_exchange(nowait=nowait, channel=channel)
            self._create_queue(nowait=nowait, channel=channel)
            self._create_bindings(nowait=nowait, channel=channel)
        return self.name

    def _create_exchange(self, nowait: bool = False, channel: Any = None) -> None:
        if self.exchange:
            self.exchange.declare(nowait=nowait, channel=channel)

    def _create_queue(self, nowait: bool = False, channel: Any = None) -> None:
        self.queue_declare(nowait=nowait, passive=False, channel=channel)
        # The default exchange has every queue bound under its name, and refuses further binds.
        if self.exchange and self.exchange.name:
            self.queue_bind(nowait=nowait, channel=channel)

    def _create_bindings(self, nowait: bool = False, channel: Any = None) -> None:
        for entry in self.bindings:
            channel = channel or self.channel
            entry.declare(channel)
            entry.bind(self, nowait=nowait, channel=channel)

    def queue_declare(
        self, nowait: bool = False, passive: bool = False, channel: Channel | None = None
    ) -> queue_declare_ok_t:
        """Declare the queue alone.

        Arguments:
            nowait: do not wait for the broker's answer.
            passive: only check that it is there; a channel error says that it is not.
            channel: use this channel instead of the one it is bound to.

        Returns:
            ``(name, message_count, consumer_count)`` as the broker says.
        """
        channel = channel or self.channel
        arguments = channel.prepare_queue_arguments(
            self.queue_arguments or {},
            expires=self.expires,
            message_ttl=self.message_ttl,
            max_length=self.max_length,
            max_length_bytes=self.max_length_bytes,
            max_priority=self.max_priority,
        )
        declared = channel.queue_declare(
            queue=self.name,
            passive=passive,
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
            arguments=arguments,
            nowait=nowait,
        )
        if not self.name:
            self.name = declared[0]
        if self.on_declared:
            self.on_declared(*declared)
        return declared

    def queue_bind(self, nowait: bool = False, channel: Channel | None = None) -> Any:
        """Bind the queue to its exchange with its routing key."""
        return self.bind_to(
            self.exchange, self.routing_key, self.binding_arguments, channel=channel, nowait=nowait
        )

    def bind_to(
        self,
        exchange: Exchange | str = "",
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        channel: Channel | None = None,
    ) -> Any:
        """Bind the queue to an exchange."""
        return (channel or self.channel).queue_bind(
            queue=self.name,
            exchange=_exchange_name(exchange),
            routing_key=routing_key,
            arguments=arguments,
            nowait=nowait,
        )

    def get(self, no_ack: bool | None = None, accept: Accept | None = None) -> Message | None:
        """Ask for one message.

        Arguments:
            no_ack: the message needs no acknowledgement. Default: the queue's ``no_ack``.
            accept: content types or serializer names that may be decoded.

        Returns:
            A message, or None when the queue is empty.
        """
        no_ack = self.no_ack if no_ack is None else no_ack
        channel = self.channel
        message: Message | None = channel.basic_get(queue=self.name, no_ack=no_ack)
        if message is not None:
            to_python = getattr(channel, "message_to_python", None)
            if to_python:
                message = to_python(message)
            if message.errors:
                message._reraise_error()
            message.accept = prepare_accept_content(accept)
        return message

    def purge(self, nowait: bool = False) -> int:
        """Remove all ready messages; returns how many."""
        return self.channel.queue_purge(queue=self.name, nowait=nowait) or 0

    def consume(
        self,
        consumer_tag: str = "",
        callback: Callable[[Any], Any] | None = None,
        no_ack: bool | None = None,
        nowait: bool = False,
        on_cancel: Callable[[str], Any] | None = None,
    ) -> Any:
        """Start a consumer.

        Arguments:
            consumer_tag: its name on this channel; empty lets the broker make one.
            callback: called with each raw message.
            no_ack: deliveries need no acknowledgement. Default: the queue's ``no_ack``.
            nowait: do not wait for the broker's answer.
            on_cancel: called with the tag when the broker cancels the consumer.
        """
        return self.channel.basic_consume(
            queue=self.name,
            no_ack=self.no_ack if no_ack is None else no_ack,
            consumer_tag=consumer_tag or "",
            callback=callback,
            nowait=nowait,
            arguments=self.consumer_arguments,
            on_cancel=on_cancel,
        )

    def cancel(self, consumer_tag: str) -> Any:
        """Stop the consumer of that tag."""
        return self.channel.basic_cancel(consumer_tag)

    def delete(self, if_unused: bool = False, if_empty: bool = False, nowait: bool = False) -> Any:
        """Delete the queue on the broker.

        Arguments:
            if_unused: only when it has no consumers.
            if_empty: only when it has no messages.
            nowait: do not wait for the broker's answer.
        """
        return self.channel.queue_delete(
            queue=self.name, if_unused=if_unused, if_empty=if_empty, nowait=nowait
        )

    def queue_unbind(
        self,
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        channel: Channel | None = None,
    ) -> Any:
        """Undo :meth:`queue_bind`."""
        return self.unbind_from(self.exchange, self.routing_key, arguments, nowait, channel)

    def unbind_from(
        self,
        exchange: Exchange | str = "",
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        channel: Channel | None = None,
    ) -> Any:
        """Undo :meth:`bind_to`."""
        return (channel or self.channel).queue_unbind(
            queue=self.name,
            exchange=_exchange_name(exchange),
            routing_key=routing_key,
            arguments=arguments,
            nowait=nowait,
        )

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Queue):
            return NotImplemented
        return (
            self.name == other.name
            and self.exchange == other.exchange
            and self.routing_key == other.routing_key
            and self.queue_arguments == other.queue_arguments
            and self.binding_arguments == other.binding_arguments
            and self.consumer_arguments == other.consumer_arguments
            and self.durable == other.durable
            and self.exclusive == other.exclusive
            and self.auto_delete == other.auto_delete
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __repr__(self) -> str:
        if self.bindings:
            route = pretty_bindings(self.bindings)
        else:
            route = f"{self.exchange!r} -> {_reprstr(self.routing_key) if self.routing_key else ''}"
        return self._repr_entity(f"Queue {self.name} -> {route}")

    @property
    def can_cache_declaration(self) -> bool:  # type: ignore[override]
        """Whether one declaration per connection is enough: not when the broker may delete it."""
        arguments = self.queue_arguments or {}
        return not self.auto_delete and "x-expires" not in arguments

    # Options of from_dict that have a meaning of their own; the others are attributes as named.
    _from_dict_explicit_attrs = frozenset(
        {"name", "exchange", "routing_key", "durable", "auto_delete"}
    )

    @classmethod
    def from_dict(cls, queue: str, **options: Any) -> Self:
        """Make a queue from plain values, as in Celery's ``task_queues``.

        Arguments:
            queue: the queue's name.
            options: ``exchange`` (name), ``exchange_type``, ``binding_key`` or ``routing_key``,
                ``durable`` and ``auto_delete`` for both or ``queue_durable``,
                ``exchange_durable``, ``queue_auto_delete``, ``exchange_auto_delete`` for one,
                ``exchange_arguments``, ``delivery_mode`` (of the exchange), and any attribute of
                a queue.
        """

        def first(*names: str) -> Any:
            return next((options[n] for n in names if options.get(n) is not None), None)

        exchange = options.get("exchange")
        if not isinstance(exchange, Exchange):
            exchange = Exchange(
                exchange or "",
                type=options.get("exchange_type") or "",
                delivery_mode=options.get("delivery_mode"),
                durable=first("exchange_durable", "durable"),
                auto_delete=first("exchange_auto_delete", "auto_delete"),
                arguments=options.get("exchange_arguments"),
            )
        explicit: dict[str, Any] = {
            "exchange": exchange,
            "routing_key": first("binding_key", "routing_key") or "",
            "durable": first("queue_durable", "durable"),
            "auto_delete": first("queue_auto_delete", "auto_delete"),
        }
        for attr, _ in cls.attrs:
            if attr not in cls._from_dict_explicit_attrs:
                explicit[attr] = options.get(attr)
        return cls(queue, **explicit)

    def as_dict(self, recurse: bool = False) -> dict[str, Any]:
        """Return the attributes as a dictionary.

        Arguments:
            recurse: turn the exchange and the bindings into dictionaries too.
        """
        result = super().as_dict(recurse)
        if not recurse:
            return result
        bindings = result.get("bindings")
        if bindings:
            result["bindings"] = [b.as_dict(recurse=True) for b in bindings]
        return result
