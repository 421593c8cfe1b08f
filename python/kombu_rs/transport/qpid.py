"""``qpid://``: Apache Qpid over AMQP 0-10, which no client for Python 3 speaks.

Kombu's transport is written on ``qpid-python``, which ended with Python 2: it cannot run on any
Python that is supported today, with Kombu or here. Qpid's brokers speak AMQP 0-9-1 too, which
is ``amqp://``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .unavailable import UnavailableTransport

__all__ = ("Transport",)


class Transport(UnavailableTransport):
    """Can be named and shown; connecting raises ``TransportNotAvailable``."""

    driver_type = "qpid"
    driver_name = "qpid"
    reason = (
        ": its client qpid-python, which speaks AMQP 0-10, does not exist for Python 3. "
        "A Qpid broker that speaks AMQP 0-9-1 is reached as amqp://"
    )
    defaults: ClassVar[dict[str, Any]] = {"hostname": "localhost", "port": 5672}
