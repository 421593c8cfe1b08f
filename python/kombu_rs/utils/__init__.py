"""Small things used everywhere; imported from their modules on first use."""

from __future__ import annotations

from importlib import import_module

from .._typing import Any

# At once, and not on first use: the module and the function share their name,
# and whoever imported the module first would see that instead.
from .uuid import uuid

__all__ = (
    "EqualityDict",
    "uuid",
    "maybe_list",
    "fxrange",
    "fxrangemax",
    "retry_over_time",
    "emergency_dump_state",
    "cached_property",
    "register_after_fork",
    "reprkwargs",
    "reprcall",
    "symbol_by_name",
    "nested",
    "fileno",
    "maybe_fileno",
)

_HOMES = {
    "EqualityDict": "collections",
    "cached_property": "objects",
    "emergency_dump_state": "div",
    "fileno": "compat",
    "fxrange": "functional",
    "fxrangemax": "functional",
    "maybe_fileno": "compat",
    "maybe_list": "functional",
    "nested": "compat",
    "register_after_fork": "compat",
    "reprcall": "functional",
    "reprkwargs": "functional",
    "retry_over_time": "functional",
    "symbol_by_name": "imports",
}
_MODULES = ("collections", "compat", "div", "encoding", "functional", "imports", "objects")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
