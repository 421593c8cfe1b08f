"""A received message."""

from __future__ import annotations

import sys
from typing import Any

from .compression import decompress
from .exceptions import MessageStateError, reraise
from .serialization import loads
from .utils.functional import dictfilter

__all__ = ("Message",)

# States that end a message's life here: the broker has been told what to do with it.
ACK_STATES = {"ACK", "REJECTED", "REQUEUED"}
IS_PYPY = hasattr(sys, "pypy_version_info")


class Message:
    """A message as a consumer gets it.

    Arguments:
        body: the body, encoded, as bytes or text.
        delivery_tag: what the channel calls this delivery.
        content_type: how the body is serialized, such as ``application/json``.
        content_encoding: the character set, ``utf-8``, or ``binary``.
        delivery_info: where it came from: ``exchange``, ``routing_key``, ``consumer_tag``...
        properties: AMQP properties, such as ``correlation_id`` and ``reply_to``.
        headers: the application's headers.
        postencode: encode the body (text) with this codec.
        accept: content types that may be decoded; None: all that are enabled.
        channel: where to acknowledge.

    What goes wrong while it is made is kept in :attr:`errors` and raised when it is consumed:
    the consumer must be able to reject it.
    """

    MessageStateError = MessageStateError

    errors: list | None = None

    __slots__ = (
        "__dict__",
        "_decoded_cache",
        "_state",
        "accept",
        "body",
        "channel",
        "content_encoding",
        "content_type",
        "delivery_info",
        "delivery_tag",
        "headers",
        "properties",
    )

    def __init__(
        self,
        body: Any = None,
        delivery_tag: Any = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        delivery_info: dict | None = None,
        properties: dict | None = None,
        headers: dict | None = None,
        postencode: str | None = None,
        accept: set | None = None,
        channel: Any = None,
        **kwargs: Any,
    ) -> None:
        self.errors = []
        self._state = "RECEIVED"
        self._decoded_cache: Any = None
        self.channel = channel
        self.delivery_tag = delivery_tag
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.delivery_info = {} if delivery_info is None else delivery_info
        self.headers = headers or {}
        self.properties = properties or {}
        self.accept = accept

        compression = self.headers.get("compression")
        if compression:
            try:
                body = decompress(body, compression)
            except Exception:
                self.errors.append(sys.exc_info())
        if postencode and isinstance(body, str):
            try:
                body = body.encode(postencode)
            except Exception:
                self.errors.append(sys.exc_info())
        self.body = body

    def _reraise_error(self, callback: Any = None) -> None:
        """Raise the first error of the delivery, or hand it to ``callback(message, exc)``."""
        if not self.errors:
            return
        kind, error, traceback = self.errors[0]
        if callback is None:
            reraise(kind, error, traceback)
        else:
            callback(self, error)

    def _settle(self, what: str) -> None:
        """Check that the broker may still be told what to do with this message."""
        if self.channel is None:
            raise self.MessageStateError("This message does not have a receiving channel")
        if self._state in ACK_STATES:
            raise self.MessageStateError(f"Message already acknowledged with state: {self._state}")

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge: the message was handled. The broker forgets it.

        Does nothing for a consumer that needs no acknowledgements.

        Arguments:
            multiple: and all that came before it on this channel.

        Raises:
            MessageStateError: already acknowledged, rejected or requeued; or no channel.
        """
        channel = self.channel
        if channel is not None and channel.no_ack_consumers is not None:
            consumer_tag = self.delivery_info.get("consumer_tag")
            if consumer_tag is not None and consumer_tag in channel.no_ack_consumers:
                return
        self._settle("ack")
        channel.basic_ack(self.delivery_tag, multiple=multiple)
        self._state = "ACK"

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        """:meth:`ack`, but log the given errors instead of raising them."""
        try:
            self.ack(multiple=multiple)
        except BrokenPipeError as exc:
            logger.critical("Couldn't ack %r, reason:%r", self.delivery_tag, exc, exc_info=True)
            raise
        except errors as exc:
            logger.critical("Couldn't ack %r, reason:%r", self.delivery_tag, exc, exc_info=True)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        """:meth:`reject`, but log the given errors instead of raising them."""
        try:
            self.reject(requeue=requeue)
        except errors as exc:
            logger.critical(
                "Couldn't reject %r, reason: %r", self.delivery_tag, exc, exc_info=True
            )

    def reject(self, requeue: bool = False) -> None:
        """Reject: the broker drops the message, or dead-letters it.

        Arguments:
            requeue: put it back into the queue instead, for anyone to take.

        Raises:
            MessageStateError: already acknowledged, rejected or requeued; or no channel.
        """
        self._settle("reject")
        self.channel.basic_reject(self.delivery_tag, requeue=requeue)
        self._state = "REJECTED"

    def requeue(self) -> None:
        """Put the message back into the queue, for anyone to take.

        Raises:
            MessageStateError: already acknowledged, rejected or requeued; or no channel.
        """
        self._settle("requeue")
        self.channel.basic_reject(self.delivery_tag, requeue=True)
        self._state = "REQUEUED"

    def decode(self) -> Any:
        """Return the decoded body; decodes once.

        Raises:
            ContentDisallowed: :attr:`accept` does not allow the content type.
            DecodeError: the body is not what its content type says.
        """
        if self._decoded_cache is None:
            self._decoded_cache = self._decode()
        return self._decoded_cache

    def _decode(self) -> Any:
        return loads(self.body, self.content_type, self.content_encoding, accept=self.accept)

    @property
    def acknowledged(self) -> bool:
        """Whether it was acknowledged, rejected or requeued."""
        return self._state in ACK_STATES

    @property
    def payload(self) -> Any:
        """The decoded body, as :meth:`decode`."""
        if self._decoded_cache is not None:
            return self._decoded_cache
        return self.decode()

    def __repr__(self) -> str:
        details = dictfilter(
            state=self._state,
            content_type=self.content_type,
            delivery_tag=self.delivery_tag,
            body_length=len(self.body) if self.body is not None else None,
            properties=dictfilter(
                {
                    "correlation_id": self.properties.get("correlation_id"),
                    "type": self.properties.get("type"),
                }
            ),
            delivery_info=dictfilter(
                {
                    "exchange": self.delivery_info.get("exchange"),
                    "routing_key": self.delivery_info.get("routing_key"),
                }
            ),
        )
        return f"<{type(self).__name__} object at {id(self):#x} with details {details!r}>"
