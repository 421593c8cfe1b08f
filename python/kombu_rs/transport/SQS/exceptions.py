"""What goes wrong with queues and topics."""

from __future__ import annotations

from ...exceptions import KombuError

__all__ = (
    "AccessDeniedQueueException",
    "DoesNotExistQueueException",
    "InvalidQueueException",
    "UnableToSubscribeQueueToTopicException",
    "UnableToUnsubscribeQueueFromTopicException",
    "UndefinedExchangeException",
    "UndefinedQueueException",
)


class UndefinedQueueException(KombuError):
    """A queue is not among the ``predefined_queues``."""


class InvalidQueueException(KombuError):
    """A predefined queue's name and URL do not agree on whether it is a FIFO queue."""


class AccessDeniedQueueException(KombuError):
    """The credentials do not allow what was asked of a queue."""


class DoesNotExistQueueException(KombuError):
    """There is no such queue."""


class UndefinedExchangeException(KombuError):
    """An exchange is not among the ``predefined_exchanges``, or its topic cannot be had."""


class UnableToSubscribeQueueToTopicException(KombuError):
    """SNS did not subscribe a queue to a topic."""


class UnableToUnsubscribeQueueFromTopicException(KombuError):
    """SNS did not end a queue's subscription to a topic."""
