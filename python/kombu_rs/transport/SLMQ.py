"""``SLMQ://``: SoftLayer Message Queue, a service that its owner has shut down."""

from __future__ import annotations

from typing import Any, ClassVar

from .unavailable import UnavailableTransport

__all__ = ("Transport",)


class Transport(UnavailableTransport):
    """Can be named and shown; connecting raises ``TransportNotAvailable``."""

    driver_type = "slmq"
    driver_name = "softlayer_messaging"
    reason = ": the SoftLayer Message Queue service has been shut down"
    defaults: ClassVar[dict[str, Any]] = {"hostname": "localhost", "port": None}
