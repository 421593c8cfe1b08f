"""JSON with more types.

A value that JSON does not have is written as an object with two members::

    {"__type__": "datetime", "__value__": "2026-01-31T12:00:00+00:00"}

The markers are part of the wire format that we share with Kombu: ``datetime``,
``date``, ``time``, ``decimal``, ``uuid``, ``bytes`` (UTF-8) and ``base64``
(other bytes). :func:`register_type` adds more.

The walk over the data is native; everything about types is decided here, by
:func:`encode_value` and :func:`object_hook`.
"""

from __future__ import annotations

from collections.abc import Callable

from .._deferred import importing
from .._native import json_dumps as _native_dumps
from .._native import json_loads as _native_loads
from .._typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import json
    from datetime import date, datetime, time

    from ._json_encoder import JSONEncoder as JSONEncoder

T = TypeVar("T")
EncodedT = TypeVar("EncodedT")

#: Types that are written as ``str(value)``.
textual_types: tuple[type, ...] = ()

_encoders: dict[type, tuple[str | None, Callable[[Any], Any]]] = {}
_decoders: dict[str, Callable[[Any], Any]] = {}

_NOTSET: Any = object()


def __getattr__(name: str) -> Any:
    # The standard library's `json` takes as long to import as the rest of this package.
    if name == "JSONEncoder":
        from ._json_encoder import JSONEncoder

        return JSONEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def encode_value(o: Any) -> Any:
    """Return something that JSON has for ``o``.

    In this order: the result of a method ``__json__``; text of
    ``textual_types``; bytes; the types registered by :func:`register_type`.

    Raises:
        TypeError: if ``o`` is none of these.
    """
    reducer = getattr(o, "__json__", None)
    if reducer is not None:
        return reducer()
    if textual_types and isinstance(o, textual_types):
        return str(o)
    if isinstance(o, bytes):
        try:
            return _as("bytes", o.decode("utf-8"))
        except UnicodeDecodeError:
            from binascii import b2a_base64

            return _as("base64", b2a_base64(o, newline=False).decode("ascii"))
    entry = _encoders.get(type(o)) or _find_encoder(o)
    if entry is None:
        raise TypeError(f"Object of type {type(o).__name__} is not JSON serializable")
    marker, encoder = entry
    return encoder(o) if marker is None else _as(marker, encoder(o))


def _find_encoder(o: Any) -> tuple[str | None, Callable[[Any], Any]] | None:
    _register_dates()
    entry = _encoders.get(type(o))
    if entry is not None:
        return entry
    _register_costly_types()
    for t, entry in list(_encoders.items()):  # another thread may register one
        if isinstance(o, t):
            return entry
    return None


def _as(t: str, v: Any) -> dict[str, Any]:
    return {"__type__": t, "__value__": v}


def object_hook(o: dict[str, Any]) -> Any:
    """Return the value that ``o`` stands for, or ``o`` if it is an ordinary object.

    Raises:
        ValueError: if the marker is not registered.
    """
    if len(o) != 2 or "__type__" not in o or "__value__" not in o:
        return o
    marker = o["__type__"]
    decoder = _decoders.get(marker) if isinstance(marker, str) else None
    if decoder is None:
        _register_costly_types()
        decoder = _decoders.get(marker) if isinstance(marker, str) else None
        if decoder is None:
            known = ", ".join(sorted(_decoders))
            raise ValueError(f"Unsupported type {marker!r} in JSON; registered are: {known}")
    return decoder(o["__value__"])


_own_hook = object_hook  # native code calls no other: it passes over ordinary objects


def dumps(
    s: Any,
    _dumps: Callable[..., str] | None = None,
    cls: type[json.JSONEncoder] | None = _NOTSET,
    default_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> str:
    """Return ``s`` as JSON text in ASCII.

    Arguments:
        _dumps: Writes instead of :func:`json.dumps`.
        cls: Encoder class; default :class:`JSONEncoder`.
        default_kwargs: Options of ``_dumps``, below ``kwargs``.

    Raises:
        TypeError: if something has no JSON form.
        ValueError: if the data contains itself.
    """
    if _dumps is None and cls is _NOTSET and not kwargs and not default_kwargs:
        return _native_dumps(s, encode_value)
    import json

    from ._json_encoder import JSONEncoder

    write = _dumps or json.dumps
    cls = JSONEncoder if cls is _NOTSET else cls
    return write(s, cls=cls, **{**(default_kwargs or {}), **kwargs})


def loads(
    s: Any,
    _loads: Callable[..., Any] | None = None,
    decode_bytes: bool = True,
    object_hook: Callable[[dict[str, Any]], Any] | None = object_hook,
) -> Any:
    """Return the data that JSON text, or UTF-8 bytes of it, stands for.

    Arguments:
        _loads: Reads instead of :func:`json.loads`.
        decode_bytes: Decode bytes before they go to ``_loads``.
        object_hook: Called with each object; its result takes the object's place.

    Raises:
        ValueError: if it is not JSON, or holds a type that is not registered.
    """
    if isinstance(s, memoryview):
        s = s.tobytes()
    if _loads is None and object_hook is _own_hook:
        return _native_loads(s, object_hook)
    import json

    if decode_bytes and isinstance(s, (bytes, bytearray)):
        s = s.decode("utf-8")
    return (_loads or json.loads)(s, object_hook=object_hook)


def _no_decoder(o: Any) -> Any:
    return o


def register_type(
    t: type[T],
    marker: str | None,
    encoder: Callable[[T], EncodedT],
    decoder: Callable[[EncodedT], T] = _no_decoder,
) -> None:
    """Make ``t`` and its subclasses known to JSON, or replace how they are written.

    Arguments:
        t: The type.
        marker: Its name on the wire. With ``None`` the result of ``encoder``
            takes the value's place and is not turned back when it is read.
        encoder: Returns something that JSON has.
        decoder: Turns that back.
    """
    _register_dates()  # before others, of whom the first counts for a value of several
    _encoders[t] = (marker, encoder)
    if marker is not None:
        _decoders[marker] = decoder


def _register_default_types() -> None:
    """Register the types listed at the top of this module, replacing what is there."""
    _register_decoders()
    _register_costly_types(replace=True)


def _read_datetime(text: str) -> datetime:
    from datetime import datetime

    if text.endswith("Z"):  # Python 3.10 does not read it
        text = text[:-1] + "+00:00"
    return datetime.fromisoformat(text)


def _read_date(text: str) -> date:
    return _read_datetime(text).date()


def _read_time(text: str) -> time:
    from datetime import time

    return time.fromisoformat(text)


def _read_base64(text: str) -> bytes:
    from binascii import a2b_base64

    return a2b_base64(text.encode("ascii"))


def _register_decoders() -> None:
    _decoders.update(
        {
            "datetime": _read_datetime,
            "date": _read_date,
            "time": _read_time,
            "bytes": lambda o: o.encode("utf-8"),
            "base64": _read_base64,
        }
    )


_dates_registered = False


def _register_dates(replace: bool = False) -> None:
    """Register how dates and times are written, when one may have to be.

    Arguments:
        replace: What the user has registered for them as well.
    """
    global _dates_registered
    if _dates_registered and not replace:
        return
    with importing:
        from datetime import date, datetime, time

        for t, marker in ((datetime, "datetime"), (date, "date"), (time, "time")):
            if replace or not _dates_registered:
                _encoders[t] = (marker, t.isoformat)
        _dates_registered = True


_costly_types_registered = False


def _register_costly_types(replace: bool = False) -> None:
    """Register the types whose modules take time to import, when one may be needed.

    Arguments:
        replace: What the user has registered for them as well.
    """
    global _costly_types_registered
    if _costly_types_registered and not replace:
        return
    with importing:
        _register_dates(replace)
        from decimal import Decimal
        from uuid import UUID

        for t, marker, encoder, decoder in (
            (Decimal, "decimal", str, Decimal),
            (UUID, "uuid", lambda o: {"hex": o.hex}, lambda o: UUID(**o)),
        ):
            if replace or t not in _encoders:
                _encoders[t] = (marker, encoder)
            if replace or marker not in _decoders:
                _decoders[marker] = decoder
        _costly_types_registered = True


_register_decoders()
