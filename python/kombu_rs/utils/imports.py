"""Importing by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from .._typing import Any


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    imp: Callable[..., Any] | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """Return the object that ``name`` stands for.

    ``name`` is ``module.sub.Class`` or ``module.sub:Class``, or a key of
    ``aliases``. Anything that is not text is returned as it is. A name that
    begins with the separator is looked up in ``package``.

    Arguments:
        imp: Replaces :func:`importlib.import_module`; ``kwargs`` go to it.
        default: Returned instead of raising when the object does not exist.

    Raises:
        ImportError: if the module cannot be imported.
        AttributeError: if the module has no such attribute.
        ValueError: if the name cannot be a module's.
    """
    if not isinstance(name, str):
        return name
    target = (aliases or {}).get(name, name)
    if not isinstance(target, str):
        return target
    module_name, separator, attribute = target.rpartition(":" if ":" in target else sep)
    if not module_name:
        if separator and package:
            module_name = package
        else:
            module_name, attribute = attribute, ""
    try:
        try:
            module = (imp or importlib.import_module)(module_name, package=package, **kwargs)
        except ValueError as exc:
            raise ValueError(f"Couldn't import {name!r}: {exc}") from exc
        return getattr(module, attribute) if attribute else module
    except (ImportError, AttributeError):
        if default is None:
            raise
        return default
