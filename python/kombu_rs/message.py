"""A received message."""

from __future__ import annotations

from typing import Any

from ._native import Message
from .compression import decompress
from .serialization import loads
from .utils.functional import dictfilter

__all__ = ("Message",)

#: States of a message that is settled: nothing more can be said about it.
ACK_STATES = {"ACK", "REJECTED", "REQUEUED"}

# Looked up here by the native class, so that they can be replaced as in Kombu.
_ = (decompress, loads)


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
