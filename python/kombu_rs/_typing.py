"""The names of :mod:`typing` that classes and functions are made with, without importing it.

The import takes as long as everything else that a connection needs. Annotations are never
evaluated in this package, so all that is needed at run time is that the names can be used.
"""

from __future__ import annotations

from collections import namedtuple

__all__ = (
    "TYPE_CHECKING",
    "Any",
    "ClassVar",
    "Generic",
    "NamedTuple",
    "NoReturn",
    "TypeVar",
    "overload",
)

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, ClassVar, Generic, NamedTuple, NoReturn, TypeVar, overload
else:
    Any = NoReturn = object

    class ClassVar:
        """``ClassVar[T]`` is ``T``, for who evaluates annotations."""

        def __class_getitem__(cls, item):
            return item

    class TypeVar:
        """A name for a type."""

        def __init__(self, name, *constraints, bound=None):
            self.__name__ = name

    class Generic:
        """A base class that takes a type in brackets, and passes over it."""

        def __class_getitem__(cls, item):
            return cls

    class _NamedTuples(type):
        def __new__(cls, name, bases, body):
            made = namedtuple(name, body["__annotations__"], module=body["__module__"])
            made.__doc__ = body.get("__doc__")
            made.__annotations__ = body["__annotations__"]
            return made

    #: A base class: what is annotated in the body becomes the fields.
    NamedTuple = type.__new__(_NamedTuples, "NamedTuple", (), {})

    def overload(function):
        """One of several signatures; the function itself comes after them."""
        return function
