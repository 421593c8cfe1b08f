"""Text and bytes, and ``repr`` that cannot fail.

Used for log lines above all, where an object whose ``__repr__`` raises must
not take the program down.
"""

from __future__ import annotations

import sys

from .._typing import Any, overload

#: File whose encoding is used for output instead of the file system's.
default_encoding_file: Any = None


def set_default_encoding_file(file: Any) -> None:
    """Take the encoding for output from ``file`` (a text file) from now on."""
    global default_encoding_file
    default_encoding_file = file


def get_default_encoding_file() -> Any:
    """Return the file set by :func:`set_default_encoding_file`, or ``None``."""
    return default_encoding_file


def default_encoding(file: Any = None) -> str:
    """Return the encoding of ``file``, or of the file system."""
    file = file or get_default_encoding_file()
    return getattr(file, "encoding", None) or sys.getfilesystemencoding()


@overload
def str_to_bytes(s: str | bytes) -> bytes: ...
@overload
def str_to_bytes(s: Any) -> Any: ...
def str_to_bytes(s: Any) -> Any:
    """Encode text as UTF-8; anything else is returned as it is."""
    return s.encode() if isinstance(s, str) else s


@overload
def bytes_to_str(s: str | bytes) -> str: ...
@overload
def bytes_to_str(s: Any) -> Any: ...
def bytes_to_str(s: Any) -> Any:
    """Decode bytes as UTF-8 (bad bytes become U+FFFD); anything else is returned as it is."""
    return s.decode(errors="replace") if isinstance(s, bytes) else s


def from_utf8(s: Any, *args: Any, **kwargs: Any) -> Any:
    """Return ``s`` as it is (Python 2 decoded here)."""
    return s


@overload
def ensure_bytes(s: str | bytes) -> bytes: ...
@overload
def ensure_bytes(s: Any) -> Any: ...
def ensure_bytes(s: Any) -> Any:
    """Encode text as UTF-8; bytes and anything else are returned as they are."""
    return str_to_bytes(s)


def default_encode(obj: Any) -> Any:
    """Return ``obj`` as it is (Python 2 encoded here)."""
    return obj


def safe_str(s: Any, errors: str = "replace") -> str:
    """Return ``s`` as text; like ``str(s)`` for text and bytes, ``repr(s)`` for the rest."""
    s = bytes_to_str(s)
    return s if isinstance(s, str) else safe_repr(s, errors)


def _safe_str(s: Any, errors: str = "replace", file: Any = None) -> str:
    return safe_str(s, errors)


def safe_repr(o: Any, errors: str = "replace") -> str:
    """Return ``repr(o)``, or a text that says why there is none."""
    try:
        return repr(o)
    except Exception as exc:
        import traceback

        where = "\n".join(traceback.format_stack())
        return f"<Unrepresentable {type(o)!r}: {exc!r} {where!r}>"
