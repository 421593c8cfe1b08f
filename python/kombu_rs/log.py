"""Logging utilities."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from ._deferred import deferred_module
from ._typing import TYPE_CHECKING, Any
from .utils.encoding import safe_repr, safe_str
from .utils.functional import maybe_evaluate
from .utils.objects import cached_property

__all__ = ("LogMixin", "LOG_LEVELS", "get_loglevel", "setup_logging")

if TYPE_CHECKING:
    import logging
else:
    logging = deferred_module("logging")

#: Level by name and name by level.
LOG_LEVELS: dict[Any, Any] = {
    name: level
    for level, *names in (
        (50, "FATAL", "CRITICAL"),
        (40, "ERROR"),
        (30, "WARN", "WARNING"),
        (20, "INFO"),
        (10, "DEBUG"),
        (0, "NOTSET"),
    )
    for name in names
}
LOG_LEVELS.update({level: name for name, level in LOG_LEVELS.items()})

#: Set by the environment variable of that name: errors are logged without their traceback.
DISABLE_TRACEBACKS = os.environ.get("DISABLE_TRACEBACKS")


def __getattr__(name: str) -> Any:
    # A name of this module, as in Kombu; but few log to a file, and its import costs as much as
    # half of all the others.
    if name == "WatchedFileHandler":
        from logging.handlers import WatchedFileHandler

        return WatchedFileHandler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_logger(logger: str | logging.Logger) -> logging.Logger:
    """Return the logger (by name, or as it is) with a handler, so that Python prints no warning."""
    if isinstance(logger, str):
        logger = logging.getLogger(logger)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def get_loglevel(level: str | int) -> int:
    """Return a level as number, whether it is given by name or by number."""
    return LOG_LEVELS[level] if isinstance(level, str) else level


def naive_format_parts(fmt: str) -> Iterator[str]:
    """Yield the conversion letter for each argument of ``fmt`` (``%%`` takes none)."""
    import re

    for match in re.finditer(r"%(?:%|[^a-zA-Z%]*([a-zA-Z]))", fmt):
        if match[1]:
            yield match[1]


def safeify_format(
    fmt: str,
    args: Sequence[Any],
    filters: dict[str, Any] | None = None,
) -> Iterator[Any]:
    """Yield ``args`` as text, by ``repr`` where ``fmt`` says ``%r``; no conversion can fail."""
    chosen = filters or {"s": safe_str, "r": safe_repr}
    for arg, kind in zip(args, naive_format_parts(fmt), strict=False):
        arg = maybe_evaluate(arg)
        yield chosen[kind](arg) if kind in chosen else arg


class LogMixin:
    """Gives a class ``debug``, ``info``, ``warn``, ``error`` and ``critical``."""

    def debug(self, *args: Any, **kwargs: Any) -> Any:
        """Log at level DEBUG."""
        return self.log(logging.DEBUG, *args, **kwargs)

    def info(self, *args: Any, **kwargs: Any) -> Any:
        """Log at level INFO."""
        return self.log(logging.INFO, *args, **kwargs)

    def warn(self, *args: Any, **kwargs: Any) -> Any:
        """Log at level WARNING."""
        return self.log(logging.WARN, *args, **kwargs)

    def error(self, *args: Any, **kwargs: Any) -> Any:
        """Log at level ERROR, with the traceback of the current exception."""
        return self._log_error(logging.ERROR, *args, **kwargs)

    def critical(self, *args: Any, **kwargs: Any) -> Any:
        """Log at level CRITICAL, with the traceback of the current exception."""
        return self._log_error(logging.CRITICAL, *args, **kwargs)

    def _log_error(self, severity: int, *args: Any, **kwargs: Any) -> Any:
        if DISABLE_TRACEBACKS:
            kwargs.pop("exc_info", None)
        else:
            kwargs.setdefault("exc_info", True)
        return self.log(severity, *args, **kwargs)

    def annotate(self, text: Any) -> str:
        """Return ``text`` with the logger's name before it."""
        return f"{self.logger_name} - {text}"

    def log(self, severity: int, *args: Any, **kwargs: Any) -> Any:
        """Log ``args`` (a format and its values) if ``severity`` is enabled."""
        if not self.logger.isEnabledFor(severity):
            return None
        if len(args) > 1 and isinstance(args[0], str):
            fmt, *values = args
            shown = list(safeify_format(fmt, values))
            return self.logger.log(
                severity, self.annotate(fmt.replace("%r", "%s")), *shown, **kwargs
            )
        return self.logger.log(severity, self.annotate(" ".join(map(safe_str, args))), **kwargs)

    def get_logger(self) -> logging.Logger:
        """Return the logger of the name :attr:`logger_name`."""
        return get_logger(self.logger_name)

    def is_enabled_for(self, level: str | int) -> bool:
        """Return true if something logged at ``level`` would be seen."""
        return self.logger.isEnabledFor(self.get_loglevel(level))

    def get_loglevel(self, level: str | int) -> int:
        """Return a level as number."""
        return get_loglevel(level)

    @cached_property
    def logger(self) -> logging.Logger:
        """The logger."""
        return self.get_logger()

    @property
    def logger_name(self) -> str:
        """Name of the logger: by default the class's."""
        return self.__class__.__name__


class Log(LogMixin):
    """A logger with a name of its own.

    Arguments:
        name (str): Put before each line, and the name of the logger.
        logger (str | logging.Logger): Another logger to write to.
    """

    def __init__(self, name: str, logger: Any = None) -> None:
        self._logger_name = name
        self._logger = logger

    def get_logger(self) -> logging.Logger:
        """Return the logger given, or the one of our name."""
        return self._logger or super().get_logger()

    @property
    def logger_name(self) -> str:
        """Name of the logger."""
        return self._logger_name


def setup_logging(loglevel: Any = None, logfile: Any = None) -> logging.Logger:
    """Set up the root logger, unless it has handlers already.

    Arguments:
        loglevel (str | int): Default ERROR.
        logfile: Path, or a file that is open; default standard error.
    """
    logger = logging.getLogger()
    if logger.handlers:
        return logger
    target: Any = logfile if logfile is not None else sys.__stderr__
    if hasattr(target, "write"):
        handler: logging.Handler = logging.StreamHandler(target)
    else:
        handler = sys.modules[__name__].WatchedFileHandler(target)
    logger.addHandler(handler)
    logger.setLevel(get_loglevel(loglevel if loglevel is not None else logging.ERROR))
    return logger
