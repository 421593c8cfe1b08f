"""Debugging support: see every call on a transport's objects in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from ..log import get_logger

__all__ = ("setup_logging", "Logwrapped")


def setup_logging(
    loglevel: int = logging.DEBUG,
    loggers: Sequence[str] | None = None,
) -> None:
    """Send the log of ``loggers`` (default: connections and channels) to standard error."""
    for name in loggers or ("kombu.connection", "kombu.channel"):
        logger = get_logger(name)
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(loglevel)


class Logwrapped:
    """Stand in for ``instance`` and log each method call on it.

    Arguments:
        instance (object): What to stand in for.
        logger (str | logging.Logger): Where to log, at level DEBUG.
        ident (str): Put before each line; a format string for ``instance``.
    """

    def __init__(self, instance: Any, logger: Any = None, ident: str | None = None) -> None:
        self.instance = instance
        self.logger: logging.Logger = get_logger(logger)
        self.ident = ident

    def __getattr__(self, key: str) -> Any:
        value = getattr(self.instance, key)
        return self._logged(value) if callable(value) else value

    def _logged(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            shown = [repr(arg) for arg in args]
            shown += [f"{name}={value!r}" for name, value in kwargs.items()]
            prefix = self.ident.format(self.instance) if self.ident else ""
            name = getattr(method, "__name__", repr(method))
            self.logger.debug(f"{prefix}{name}({', '.join(shown)})")
            return method(*args, **kwargs)

        return call

    def __enter__(self) -> Logwrapped:
        self.instance.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> Any:
        return self.instance.__exit__(*exc_info)

    def __repr__(self) -> str:
        return repr(self.instance)

    def __dir__(self) -> list[str]:
        return dir(self.instance)
