"""Every exception that kombu-rs raises: the source of truth of the hierarchy.

The native core raises these classes too (it imports them from here), so what
is caught by name in Python is what was raised in Rust.

The AMQP classes mirror the reply codes of AMQP 0-9-1 (section 1.2 of the
specification's XML) under the names that py-amqp gave them. py-amqp itself is
not needed. When a program has imported it, our classes become subclasses of
its classes, so that ``except amqp.exceptions.NotFound`` catches ours.
"""

from __future__ import annotations

import sys
from builtins import TimeoutError

from ._typing import Any, NoReturn

__all__ = (
    "reraise",
    "KombuError",
    "OperationalError",
    "BrokerConnectionError",
    "BatchPublishError",
    "NotBoundError",
    "MessageStateError",
    "TimeoutError",
    "LimitExceeded",
    "ConnectionLimitExceeded",
    "ChannelLimitExceeded",
    "ConnectionError",
    "ChannelError",
    "VersionMismatch",
    "SerializerNotInstalled",
    "ResourceError",
    "SerializationError",
    "EncodeError",
    "DecodeError",
    "HttpError",
    "InconsistencyError",
)


def reraise(tp: type[BaseException], value: BaseException, tb: Any = None) -> NoReturn:
    """Raise ``value`` with the traceback ``tb`` (``tp`` is unused, as in Python 2's ``raise``)."""
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value


class KombuError(Exception):
    """Base class of the errors that are about using the library, not about AMQP itself."""


class OperationalError(KombuError):
    """The broker cannot be reached or was lost; trying again later may succeed."""


class BrokerConnectionError(OperationalError):
    """The link to the broker broke or could not be made: one of a native transport's
    ``connection_errors``.

    Whoever has tried for as long as was wanted raises :exc:`OperationalError` itself, which is
    none of them: nobody goes on trying then.
    """


class BatchPublishError(KombuError):
    """A batch was cut off: the broker may hold any part of it."""


class SerializationError(KombuError):
    """A body could not be converted to or from bytes."""


class EncodeError(SerializationError):
    """The object cannot be written by the chosen serializer."""


class DecodeError(SerializationError):
    """The payload cannot be read by the serializer that its content type names."""


class NotBoundError(KombuError):
    """The entity has no channel yet: bind it first."""


class MessageStateError(KombuError):
    """The message was acknowledged, rejected or requeued before."""


class LimitExceeded(KombuError):
    """Everything that the pool may hand out is in use."""


class ConnectionLimitExceeded(LimitExceeded):
    """All connections of the pool are in use."""


class ChannelLimitExceeded(LimitExceeded):
    """All channels of the pool are in use."""


class VersionMismatch(KombuError):
    """An installed dependency has a version that cannot be used."""


class SerializerNotInstalled(KombuError):
    """No serializer is registered under that name, or its library is missing."""


class ContentDisallowed(SerializerNotInstalled):
    """The content type of the message is not accepted by this consumer."""


class HttpError(Exception):
    """An HTTP request was answered with an error.

    Arguments:
        code (int): HTTP status.
        message (str): Reason phrase.
        response (object): The whole response, if there was one.
    """

    def __init__(self, code: int, message: str | None = None, response: Any = None) -> None:
        self.code = code
        self.message = message
        self.response = response
        super().__init__(code, message, response)

    def __str__(self) -> str:
        return f"HTTP {self.code}: {self.message}"


class _AMQPRoot(Exception):
    # Python only lets `__bases__` be replaced between classes that it
    # allocates alike, and `Exception` itself is not one of them. Hence a
    # class of ours at the very bottom, which py-amqp's takes the place of.
    pass


# The methods that a broker may complain about (AMQP 0-9-1, and RabbitMQ's own).
_METHOD_NAMES = {
    (10, 10): "Connection.start",
    (10, 20): "Connection.secure",
    (10, 30): "Connection.tune",
    (10, 40): "Connection.open",
    (10, 50): "Connection.close",
    (20, 10): "Channel.open",
    (20, 20): "Channel.flow",
    (20, 40): "Channel.close",
    (40, 10): "Exchange.declare",
    (40, 20): "Exchange.delete",
    (40, 30): "Exchange.bind",
    (40, 40): "Exchange.unbind",
    (50, 10): "Queue.declare",
    (50, 20): "Queue.bind",
    (50, 30): "Queue.purge",
    (50, 40): "Queue.delete",
    (50, 50): "Queue.unbind",
    (60, 10): "Basic.qos",
    (60, 20): "Basic.consume",
    (60, 30): "Basic.cancel",
    (60, 40): "Basic.publish",
    (60, 50): "Basic.return",
    (60, 60): "Basic.deliver",
    (60, 70): "Basic.get",
    (60, 80): "Basic.ack",
    (60, 90): "Basic.reject",
    (60, 100): "Basic.recover_async",
    (60, 110): "Basic.recover",
    (60, 120): "Basic.nack",
    (85, 10): "Confirm.select",
    (90, 10): "Tx.select",
    (90, 20): "Tx.commit",
    (90, 30): "Tx.rollback",
}


class AMQPError(_AMQPRoot):
    """Base class of everything that the AMQP peer can complain about.

    Arguments:
        reply_text (str): What the peer said.
        method_sig (tuple[int, int]): Class and method id that it is about.
        method_name (str): The same in words, such as ``Queue.declare``.
        reply_code (int): Defaults to the class's ``code``.
    """

    #: Reply code of AMQP 0-9-1, or 0 for the general classes.
    code = 0

    def __init__(
        self,
        reply_text: Any = None,
        method_sig: tuple[int, int] | None = None,
        method_name: str | None = None,
        reply_code: int | None = None,
    ) -> None:
        if not _adopted:
            _adopt_amqp()
        self.message: Any = reply_text
        self.reply_text: Any = reply_text
        self.reply_code: int = reply_code or self.code
        self.method_sig = method_sig
        self.method_name: str = method_name or _METHOD_NAMES.get(method_sig or (0, 0), "")
        # Not super().__init__: py-amqp's takes the arguments in another order.
        Exception.__init__(self, self.reply_code, reply_text, method_sig, self.method_name)

    def __reduce__(self) -> tuple[Any, ...]:
        args = (self.reply_text, self.method_sig, self.method_name, self.reply_code)
        return type(self), args, self.__dict__

    def __str__(self) -> str:
        if self.method_name or self.method_sig:
            return f"{self.method_name or self.method_sig}: ({self.reply_code}) {self.reply_text}"
        if self.reply_text is None:
            return f"<{type(self).__name__}: unknown error>"
        if self.reply_code:
            return f"({self.reply_code}) {self.reply_text}"
        return str(self.reply_text)


class ConnectionError(AMQPError):
    """The connection is closed or must be."""


class ChannelError(AMQPError):
    """The channel is closed; its connection lives on."""


class RecoverableConnectionError(ConnectionError):
    """Connecting again may help."""


class IrrecoverableConnectionError(ConnectionError):
    """Connecting again with the same arguments will fail the same way."""


class RecoverableChannelError(ChannelError):
    """The same operation on a new channel may succeed."""


class IrrecoverableChannelError(ChannelError):
    """The same operation on a new channel will fail the same way."""


class ConsumerCancelled(RecoverableConnectionError):
    """The broker cancelled the consumer, for example as its queue was deleted."""


class ContentTooLarge(RecoverableChannelError):
    """The broker cannot take a body of that size now."""

    code = 311


class NoConsumers(RecoverableChannelError):
    """An immediate message found no consumer."""

    code = 313


class ConnectionForced(RecoverableConnectionError):
    """An operator closed the connection, or the broker is shutting down."""

    code = 320


class InvalidPath(IrrecoverableConnectionError):
    """The virtual host does not exist."""

    code = 402


class AccessRefused(IrrecoverableChannelError):
    """The user lacks the permission."""

    code = 403


class NotFound(IrrecoverableChannelError):
    """The queue or exchange does not exist."""

    code = 404


class ResourceLocked(RecoverableChannelError):
    """The queue is exclusive to another connection."""

    code = 405


class PreconditionFailed(IrrecoverableChannelError):
    """The entity exists with other arguments, or a delivery tag is unknown."""

    code = 406


class ConsumerTimeout(PreconditionFailed, ConsumerCancelled):
    """A message was not acknowledged within the broker's ``consumer_timeout``.

    The broker closed the channel, and with it its consumers; it delivers the message again. As with
    :exc:`ConsumerCancelled`, who catches connection errors and consumes again, as Celery does, goes
    on; in Kombu it is a :exc:`PreconditionFailed` alone, which ends a Celery worker.
    """


class FrameError(IrrecoverableConnectionError):
    """The peer could not decode a frame."""

    code = 501


class FrameSyntaxError(IrrecoverableConnectionError):
    """A frame held an illegal value."""

    code = 502


class InvalidCommand(IrrecoverableConnectionError):
    """A frame arrived out of sequence."""

    code = 503


class ChannelNotOpen(IrrecoverableConnectionError):
    """A channel was used that is not open."""

    code = 504


class UnexpectedFrame(IrrecoverableConnectionError):
    """A frame arrived that was not expected here."""

    code = 505


class ResourceError(RecoverableConnectionError):
    """The peer lacks the resources."""

    code = 506


class NotAllowed(IrrecoverableConnectionError):
    """The peer does not allow this operation at all."""

    code = 530


class AMQPNotImplementedError(IrrecoverableConnectionError):
    """The peer does not have that method."""

    code = 540


class InternalError(IrrecoverableConnectionError):
    """The peer failed by itself."""

    code = 541


class InconsistencyError(ConnectionError):
    """Data or environment is not as it was left.

    Seen for example when the keys of a queue were evicted or flushed.
    """


class MessageNacked(_AMQPRoot):
    """The broker did not take responsibility for a confirmed publish."""


_AMQP_CLASSES = (
    AMQPError,
    ConnectionError,
    ChannelError,
    RecoverableConnectionError,
    IrrecoverableConnectionError,
    RecoverableChannelError,
    IrrecoverableChannelError,
    ConsumerCancelled,
    ContentTooLarge,
    NoConsumers,
    ConnectionForced,
    InvalidPath,
    AccessRefused,
    NotFound,
    ResourceLocked,
    PreconditionFailed,
    FrameError,
    FrameSyntaxError,
    InvalidCommand,
    ChannelNotOpen,
    UnexpectedFrame,
    ResourceError,
    NotAllowed,
    AMQPNotImplementedError,
    InternalError,
)

#: Reply code of AMQP 0-9-1 to exception class.
ERROR_MAP: dict[int, type[AMQPError]] = {cls.code: cls for cls in _AMQP_CLASSES if cls.code}


def error_for_code(
    code: int,
    text: str,
    method: tuple[int, int] | None,
    default: type[AMQPError],
) -> AMQPError:
    """Return the exception for a reply code, or ``default`` for one that is unknown."""
    return ERROR_MAP.get(code, default)(text, method, reply_code=code)


def driver_error(driver: str, kind: str) -> type[Exception] | None:
    """Return the class for an error of a broker whose client library the program may know.

    Arguments:
        driver: the library: ``"redis"``.
        kind: ``"connection"``, ``"auth"``, ``"channel"`` or ``"memory"``.

    None: there is none but those of this module.
    """
    if driver == "redis":
        from .transport.redis.errors import error_class

        return error_class(kind)
    return None


_adopted = False


def _adopt_amqp() -> None:
    """Make our AMQP classes subclasses of py-amqp's, once the program has imported those.

    Importing py-amqp ourselves would cost every program its import time. Who
    catches its classes has imported them before our error is created.
    """
    global _adopted
    amqp = sys.modules.get("amqp.exceptions")
    theirs = getattr(amqp, "InternalError", None)  # the last one: there when it is fully loaded
    if _adopted or theirs is None:
        return
    _adopted = True
    for ours in _AMQP_CLASSES:  # bases before subclasses, or the MRO would not linearise
        parents = tuple(base for base in ours.__bases__ if base is not _AMQPRoot)
        ours.__bases__ = (*parents, getattr(amqp, ours.__name__))
    nacked = getattr(amqp, "MessageNacked", None)
    if nacked is not None:
        MessageNacked.__bases__ = (nacked,)


def from_amqp(error: BaseException) -> BaseException:
    """Return an error that py-amqp has raised as ours; any other error as it is.

    Subclasses that a program derives from py-amqp's classes stay what they are.
    """
    if type(error).__module__ != "amqp.exceptions":
        return error
    names = {cls.__name__: cls for cls in _AMQP_CLASSES}
    for theirs in type(error).__mro__:
        ours = names.get(theirs.__name__)
        if ours is not None:
            return ours(
                error.reply_text,  # type: ignore[attr-defined]
                error.method_sig,  # type: ignore[attr-defined]
                error.method_name,  # type: ignore[attr-defined]
                error.reply_code,  # type: ignore[attr-defined]
            )
    return error


def with_amqp(errors: tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    """Return ``errors`` and, if the program has imported py-amqp, its classes for ours among them.

    For the tuples that connections offer to ``except``: code that has to do
    with py-amqp raises its classes, which ours are only subclasses of.
    """
    amqp = sys.modules.get("amqp.exceptions")
    if amqp is None or not isinstance(errors, tuple):
        return errors
    theirs = [getattr(amqp, cls.__name__, cls) for cls in errors if cls in _AMQP_CLASSES]
    return (*errors, *theirs) if theirs else errors


_adopt_amqp()
