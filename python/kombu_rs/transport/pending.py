"""Transports that Kombu has and this package does not have yet."""

from __future__ import annotations

from typing import Any, ClassVar

from .unavailable import TransportNotAvailable, UnavailableTransport

__all__ = ("TransportNotAvailable",)


class Pending(UnavailableTransport):
    """What all of them share."""

    reason = " in kombu-rs yet"


class Local(Pending):
    """Transports whose URLs name no server."""

    defaults: ClassVar[dict[str, Any]] = {"port": None, "hostname": "localhost"}


class Kafka(Local):
    """Apache Kafka."""

    driver_type = "kafka"
