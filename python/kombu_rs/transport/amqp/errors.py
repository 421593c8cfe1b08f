"""The exceptions of the native AMQP transport: those of :mod:`kombu_rs.exceptions`."""

from __future__ import annotations

from builtins import TimeoutError

from ... import exceptions
from ..._typing import Any

__all__ = ("LinkError", "from_core", "returned")

#: In RabbitMQ's words when it has waited for an acknowledgement for too long.
TIMED_OUT = "delivery acknowledgement"
BASIC_CANCEL = (60, 30)
BASIC_RETURN = (60, 50)


class LinkError(
    exceptions.RecoverableConnectionError, exceptions.BrokerConnectionError, ConnectionError
):
    """The link to the broker broke or could not be made.

    It is an :exc:`OSError`, as what py-amqp raises then.
    """


def from_core(
    kind: str, code: int, text: str, reply: tuple[str, tuple[int, int]] | None
) -> BaseException:
    """Return the exception for an error of the native core.

    An error with the broker's own words says these; what it is about, such as the destination and
    the ``message_id`` of a publish, is a note (``__notes__``), which tracebacks show.

    Arguments:
        kind: what happened, such as ``"connection"``.
        code: the broker's reply code; 0 when it gave none.
        text: what was tried, and why it failed.
        reply: the broker's own words, and the method that they are about.
    """
    exceptions._adopt_amqp()
    if kind == "nacked":
        return exceptions.MessageNacked(text)
    if kind == "cancelled":
        return exceptions.ConsumerCancelled(text, BASIC_CANCEL)
    if kind == "timeout":
        return TimeoutError(text)
    if code:
        return _by_code(kind, code, text, reply)
    if kind == "connection":
        return LinkError(text)
    if kind == "auth":
        return exceptions.AccessRefused(text)
    if kind == "closed":
        return exceptions.RecoverableConnectionError(text)
    if kind == "channel":
        return exceptions.ChannelError(text)
    if kind == "unsupported":
        return exceptions.ConnectionError(text)
    if kind == "limit":
        return exceptions.ResourceError(text)
    return exceptions.AMQPError(text)


def _by_code(
    kind: str, code: int, text: str, reply: tuple[str, tuple[int, int]] | None
) -> BaseException:
    of_channel = kind in ("channel", "closed")
    default = exceptions.ChannelError if of_channel else exceptions.ConnectionError
    words, method = reply or (text, None)
    error: exceptions.AMQPError
    if code == exceptions.PreconditionFailed.code and TIMED_OUT in words:
        error = exceptions.ConsumerTimeout(words, method)
    else:
        error = exceptions.error_for_code(code, words, method, default)
    if reply is not None:
        # As `add_note` does it, which Python has since 3.11.
        error.__dict__.setdefault("__notes__", []).append(text)
    return error


def returned(code: int, text: str) -> exceptions.AMQPError:
    """Return the exception that stands for a message that came back."""
    return exceptions.error_for_code(code, text, BASIC_RETURN, exceptions.ChannelError)


def not_implemented(text: str, method: tuple[int, int]) -> Any:
    """Return the exception for what brokers answer with 540."""
    return exceptions.AMQPNotImplementedError(text, method)
