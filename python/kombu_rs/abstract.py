"""What entities (exchanges, queues, bindings) have in common."""

from __future__ import annotations

from collections.abc import Callable

from ._typing import TYPE_CHECKING, Any, TypeVar
from .exceptions import NotBoundError
from .utils.functional import ChannelPromise

if TYPE_CHECKING:
    from typing_extensions import Self

    from .protocols import Channel, ChannelOrConnection

__all__ = ("Object", "MaybeChannelBound")

_ObjectType = TypeVar("_ObjectType", bound="Object")


def unpickle_dict(cls: type[_ObjectType], kwargs: dict[str, Any]) -> _ObjectType:
    """Return ``cls(**kwargs)``: how an :class:`Object` is unpickled."""
    return cls(**kwargs)


def _any(v: Any) -> Any:
    return v


class Object:
    """Something described by its attributes: can be copied, compared and pickled by them."""

    #: Pairs of attribute name and the function that converts its value, or ``None``.
    attrs: tuple[tuple[str, Any], ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name, convert in self.attrs:
            value = kwargs.get(name)
            if value is not None:
                setattr(self, name, (convert or _any)(value))
            elif not hasattr(self, name):  # else the class has a default
                setattr(self, name, None)

    def as_dict(self, recurse: bool = False) -> dict[str, Any]:
        """Return the attributes.

        Arguments:
            recurse: Turn the objects among their values into dicts as well.
        """

        def shown(value: Any, convert: Callable[[Any], Any] | None) -> Any:
            if recurse and isinstance(value, Object):
                return value.as_dict(recurse=True)
            return convert(value) if convert and value is not None else value

        return {name: shown(getattr(self, name, None), convert) for name, convert in self.attrs}

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickle_dict, (self.__class__, self.as_dict())

    def __copy__(self: _ObjectType) -> _ObjectType:
        return self.__class__(**self.as_dict())


class MaybeChannelBound(Object):
    """An entity that can be bound to a channel, on which its operations are made then."""

    _channel: Any = None
    _is_bound = False

    #: True if declaring the entity once per connection is enough.
    can_cache_declaration = False

    def __call__(self, channel: ChannelOrConnection) -> Self:
        """The same as :meth:`bind`."""
        return self.bind(channel)

    def bind(self, channel: ChannelOrConnection) -> Self:
        """Return a copy of the entity that is bound to ``channel`` (or to a connection's)."""
        return self.__copy__().maybe_bind(channel)

    def maybe_bind(self, channel: ChannelOrConnection | None) -> Self:
        """Bind the entity itself, unless it is bound already or there is no channel."""
        if not self.is_bound and channel:
            from .connection import maybe_channel

            self._channel = maybe_channel(channel)
            self.when_bound()
            self._is_bound = True
        return self

    def revive(self, channel: Any) -> None:
        """Go on with another channel, after the first one was lost."""
        if self.is_bound:
            self._channel = channel
            self.when_bound()

    def when_bound(self) -> None:
        """Called whenever the entity got a channel; for subclasses."""

    def __repr__(self) -> str:
        return self._repr_entity(type(self).__name__)

    def _repr_entity(self, item: str = "") -> str:
        item = item or type(self).__name__
        if not self.is_bound:
            return f"<unbound {item}>"
        number = getattr(self.channel, "channel_id", None)
        return f"<{item} bound to chan:{'' if number is None else number}>"

    @property
    def is_bound(self) -> bool:
        """True if there is a channel."""
        return self._is_bound and self._channel is not None

    @property
    def channel(self) -> Channel:
        """The channel; opened now if it was only promised.

        Raises:
            NotBoundError: if there is none.
        """
        channel: Any = self._channel
        if channel is None:
            raise NotBoundError(
                f"Can't call method on {type(self).__name__} not bound to a channel"
            )
        if isinstance(channel, ChannelPromise):
            channel = self._channel = channel()
        opened: Channel = channel
        return opened
