"""Object utilities."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from threading import RLock

from .._typing import Any, TypeVar, overload

__all__ = ("cached_property",)

_MISSING: Any = object()

_T = TypeVar("_T")
_Self = TypeVar("_Self", bound="cached_property[Any]")

_properties: weakref.WeakSet[cached_property[Any]] = weakref.WeakSet()


def _renew_locks() -> None:
    # In a forked child: a lock that another thread of the parent held, perhaps
    # while it was connecting, would never be released.
    for each in _properties:
        each.lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class cached_property(functools.cached_property[_T]):
    """A property that is computed at most once per instance.

    The value lives in the instance's ``__dict__`` under the property's name.
    Deleting it makes the next access compute it again.

    Arguments:
        fget: computes the value.
        fset: called with a value that is set; what it returns is stored instead.
        fdel: called with the stored value when it is deleted; not when there is none.

    Example:
        >>> class Thing:
        ...     @cached_property
        ...     def answer(self):
        ...         return 42
        ...     @answer.setter
        ...     def answer(self, value):
        ...         return int(value)
        >>> thing = Thing()
        >>> thing.answer
        42
        >>> thing.answer = '43'
        >>> thing.answer
        43
    """

    def __init__(
        self,
        fget: Callable[[Any], _T] | None = None,
        fset: Callable[[Any, Any], _T] | None = None,
        fdel: Callable[[Any, _T], Any] | None = None,
    ) -> None:
        super().__init__(fget)  # type: ignore[arg-type]
        self.fget = fget
        self.fset = fset
        self.fdel = fdel
        self.__module__ = getattr(fget, "__module__", __name__)
        self.attrname: Any = getattr(fget, "__name__", None)
        # One of our own: Python 3.12's has none.
        self.lock: Any = RLock()
        _properties.add(self)

    def __set_name__(self, owner: type, name: str) -> None:
        self.attrname = name

    @overload
    def __get__(self: _Self, instance: None, owner: type[Any] | None = None) -> _Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> _T: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        cache = instance.__dict__
        try:
            return cache[self.attrname]
        except KeyError:
            pass
        with self.lock:  # the function may be costly, and two results would differ
            value = cache.get(self.attrname, _MISSING)
            if value is _MISSING:
                value = cache[self.attrname] = self.func(instance)
            return value

    def __set__(self, instance: Any, value: _T) -> Any:
        if instance is None:
            return self
        with self.lock:
            if self.fset is not None:
                value = self.fset(instance, value)
            instance.__dict__[self.attrname] = value

    def __delete__(self, instance: Any) -> Any:
        if instance is None:
            return self
        with self.lock:
            value = instance.__dict__.pop(self.attrname, _MISSING)
            if self.fdel is not None and value is not _MISSING:
                self.fdel(instance, value)

    def setter(self: _Self, fset: Callable[[Any, Any], Any]) -> _Self:
        """Return the same property with another setter."""
        return type(self)(self.fget, fset, self.fdel)

    def deleter(self: _Self, fdel: Callable[[Any, Any], Any]) -> _Self:
        """Return the same property with another deleter."""
        return type(self)(self.fget, self.fset, fdel)
