"""A received message."""

from __future__ import annotations

from ._native import Message
from ._typing import Any
from .compression import decompress
from .serialization import loads
from .utils.functional import dictfilter

__all__ = ("Message",)

#: States of a message that is settled: nothing more can be said about it.
ACK_STATES = {"ACK", "REJECTED", "REQUEUED"}

# Looked up here by the native class, so that they can be replaced as in Kombu.
_ = (decompress, loads)

_PARTS = (
    *("body", "delivery_tag", "content_type", "content_encoding", "delivery_info", "properties"),
    *("headers", "accept", "channel", "errors", "_state", "_decoded_cache"),
)


def _reduce(message: Any) -> tuple[Any, ...]:
    """What pickle makes a copy of the message from.

    The channel is part of it, as in Kombu: a message can be pickled once ``channel`` is None.
    """
    import copyreg

    parts = {name: getattr(message, name) for name in _PARTS}
    return copyreg.__newobj__, (type(message),), (message.__dict__ or None, parts)  # type: ignore[attr-defined]


def _describe(message: Any) -> str:
    """The message's ``repr``: everything but the body."""
    body, properties, info = message.body, message.properties, message.delivery_info
    details = dictfilter(
        state=message._state,
        content_type=message.content_type,
        delivery_tag=message.delivery_tag,
        body_length=len(body) if body is not None else None,
        properties=dictfilter(
            {"correlation_id": properties.get("correlation_id"), "type": properties.get("type")}
        ),
        delivery_info=dictfilter(
            {"exchange": info.get("exchange"), "routing_key": info.get("routing_key")}
        ),
    )
    return f"<{type(message).__name__} object at {id(message):#x} with details {details!r}>"


def _serializable(message: Any) -> dict[str, Any]:
    """The message as a dictionary, as a virtual channel's ``_put`` takes it."""
    encoding = message.properties.get("body_encoding")
    body, _ = message.channel.encode_body(message.body, encoding)
    headers = dict(message.headers)
    # The body was decompressed when it came.
    headers.pop("compression", None)
    return {
        "body": body,
        "properties": message.properties,
        "content-type": message.content_type,
        "content-encoding": message.content_encoding,
        "headers": headers,
    }
