"""Things that are got when something of them is first used: a module, a logger."""

from __future__ import annotations

import os
from _thread import RLock
from collections.abc import Callable
from importlib import import_module

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


#: Held while something is imported late. A fork waits for it: the child would wait for ever for a
#: module that is half imported, by a thread that it does not have.
importing = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=importing.acquire,
        after_in_parent=importing.release,
        after_in_child=importing.release,
    )


class _Deferred:
    """Stands in for what ``get(*args)`` returns: all its attributes are that object's."""

    __slots__ = ("_args", "_get", "_got")

    def __init__(self, get: Callable[..., Any], *args: Any) -> None:
        object.__setattr__(self, "_get", get)
        object.__setattr__(self, "_args", args)

    def __getattr__(self, name: str) -> Any:
        if name == "_got":  # the slot is empty
            object.__setattr__(self, name, self._get(*self._args))
            return self._got
        return getattr(self._got, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._got, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._got, name)

    def __dir__(self) -> Any:
        return dir(self._got)

    def __repr__(self) -> str:
        return repr(self._got)

    def __eq__(self, other: object) -> bool:
        return bool(self._got == (other._got if type(other) is _Deferred else other))

    def __hash__(self) -> int:
        return hash(self._got)

    def __reduce__(self) -> Any:
        return self._got.__reduce__()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class that `isinstance` is to see."""
        return type(self._got)


def deferred(get: Callable[..., Any], *args: Any) -> Any:
    """Return an object that calls ``get(*args)`` when an attribute is first asked for.

    For what takes long to import and is seldom used. Under the same name as the real thing, it
    can be replaced there by tests, as where it had been imported.
    """
    return _Deferred(get, *args)


def deferred_module(name: str) -> Any:
    """Return a module that is imported when an attribute of it is first asked for."""

    def get() -> Any:
        with importing:
            return import_module(name)

    return deferred(get)
