"""Messages on their way to SQS and back."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from typing import Any, ClassVar

from ...asynchronous.aws.sqs.message import AsyncMessage
from ...log import get_logger
from ...utils.encoding import str_to_bytes
from ...utils.json import dumps, loads
from . import _sdk
from ._queues import Queues
from ._settings import FIFO_SUFFIX

__all__ = ("MAX_DELAY_SECONDS", "Messages")

logger = get_logger("kombu.transport.SQS")

#: Most seconds that SQS delays a message.
MAX_DELAY_SECONDS = 900

# What a number says that cannot be read as one.
_NOT_A_NUMBER = (TypeError, ValueError, OverflowError)


class Messages(Queues):
    """Sends messages, and makes dictionaries of those that come."""

    #: Makes requests on threads.
    asynsqs: Any

    #: Text that may be Base64.
    B64_REGEX: ClassVar[Any] = re.compile(
        rb"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
    )

    # Set while closing, once giving messages back has failed: SQS does it by itself, later.
    _gave_up_restoring = False

    # Sending

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Send a message, or make one that is marked as redelivered visible again."""
        queue_url = self._new_queue(queue)
        client = self.sqs(queue=self.canonical_queue_name(queue))
        if message.get("redelivered"):
            self._make_visible(client, queue_url, message["properties"]["delivery_tag"])
            return
        properties = dict(message.get("properties") or {})
        request = self._group_of(queue, properties)
        attributes = properties.pop("message_attributes", None)
        if attributes:
            request["MessageAttributes"] = attributes
        if "properties" in message:
            # Attributes travel beside the body, not in it.
            message = {**message, "properties": properties}
        delay = self._resolve_delay_seconds(properties)
        if delay is not None:
            if queue.endswith(FIFO_SUFFIX):
                logger.warning(
                    "SQS FIFO queues take no per-message delay, ignoring delay of %s seconds",
                    delay,
                )
            else:
                request["DelaySeconds"] = delay
        body = dumps(message)
        if self.sqs_base64_encoding:
            body = AsyncMessage().encode(body)
        client.send_message(QueueUrl=queue_url, MessageBody=body, **request)

    def _group_of(self, name: str, properties: dict[str, Any]) -> dict[str, Any]:
        """Return what is said of the order among messages of a queue or topic."""
        request = {}
        if properties.get("MessageGroupId") is not None:
            request["MessageGroupId"] = properties["MessageGroupId"]
        if name.endswith(FIFO_SUFFIX):
            request.setdefault("MessageGroupId", "default")
            request["MessageDeduplicationId"] = properties.get("MessageDeduplicationId") or str(
                uuid.uuid4()
            )
        return request

    def _resolve_delay_seconds(self, properties: dict[str, Any]) -> int | None:
        """Return the seconds for which SQS shall hide a message; None for its queue's default.

        Arguments:
            properties: may have it under ``delay_seconds``, or else ``DelaySeconds``.
        """
        for name in ("delay_seconds", "DelaySeconds"):
            if properties.get(name) is not None:
                break
        else:
            return None
        wanted = properties[name]
        try:
            seconds = int(wanted)
        except _NOT_A_NUMBER:
            logger.warning("Ignoring %s=%r: it is not a number of seconds", name, wanted)
            return None
        if seconds < 0:
            logger.warning("Ignoring %s=%r: it is negative", name, wanted)
            return None
        if seconds > MAX_DELAY_SECONDS:
            logger.warning(
                "%s=%r exceeds the maximum of SQS: using %s seconds",
                name,
                wanted,
                MAX_DELAY_SECONDS,
            )
            return MAX_DELAY_SECONDS
        return seconds

    def _put_fanout(
        self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any
    ) -> None:
        """Publish a message to the topic of a fanout exchange."""
        properties = message.get("properties") or {}
        self.fanout.publish(
            exchange_name=exchange,
            message=dumps(message),
            message_attributes=properties.get("message_attributes"),
            request_params=self._group_of(exchange, properties),
        )

    # Giving back

    def _make_visible(self, client: Any, queue_url: str, receipt_handle: str) -> None:
        client.change_message_visibility(
            QueueUrl=queue_url,
            ReceiptHandle=receipt_handle,
            # Not at once: who requeued it would get it again first. Who has closed does not.
            VisibilityTimeout=0 if self.closed else self.wait_time_seconds,
        )

    def _restore(
        self,
        message: Any,
        unwanted_delivery_info: tuple[str, ...] = ("sqs_message", "sqs_queue"),
    ) -> None:
        """Make a delivered message visible again.

        While the channel is closed only one attempt fails: what stays is delivered again after
        the queue's visibility timeout.
        """
        info = message.delivery_info
        if "sqs_message" not in info or "sqs_queue" not in info:
            super()._restore(message)
            return
        client = self.sqs(queue=self._queue_of(info))
        queue_url, receipt_handle = info["sqs_queue"], info["sqs_message"]["ReceiptHandle"]
        if not self.closed:
            self._make_visible(client, queue_url, receipt_handle)
        elif not self._gave_up_restoring:
            try:
                self._make_visible(self._new_release_client(client), queue_url, receipt_handle)
            except (_sdk.ClientError, _sdk.BotoCoreError, OSError) as exc:
                self._gave_up_restoring = True
                logger.warning("Failed to release messages of queue %s: %s", queue_url, exc)

    def _queue_of(self, delivery_info: dict[str, Any]) -> str | None:
        """Return the name, in AWS, of the predefined queue that a message came from; None: of none.

        Other queues have nothing of their own that depends on the name.
        """
        routing_key = delivery_info.get("routing_key")
        if routing_key is None or routing_key in self.predefined_queues:
            return routing_key
        url = delivery_info.get("sqs_queue")
        # Not in the cache of all URLs: it is large, and changes while other threads settle.
        for name, settings in self.predefined_queues.items():
            if settings["url"] == url:
                return name
        return None

    # Receiving

    def _optional_b64_decode(self, raw: bytes) -> bytes:
        """Undo Base64, where that is it: the text must be nothing else, and mean text."""
        raw = raw.strip()
        if not self.B64_REGEX.match(raw):
            return raw
        try:
            decoded = base64.b64decode(raw)
            decoded.decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return raw
        # There are two ways to write the last bits, of which encoders use one.
        return decoded if base64.b64encode(decoded) == raw else raw

    def _prepare_json_payload(self, text: str) -> dict[str, Any]:
        """Return the dictionary that a text is in JSON; an empty one if it is not."""
        try:
            payload = loads(text)
        except (ValueError, RecursionError):
            return {}
        return payload if isinstance(payload, dict) else {}

    def _is_envelope(self, payload: dict[str, Any]) -> bool:
        """Whether Kombu made it. Anybody may write into a queue."""
        properties = payload.get("properties")
        if not isinstance(properties, dict):
            return False
        if not isinstance(properties.setdefault("delivery_info", {}), dict):
            return False
        if not isinstance(payload.get("headers") or {}, dict):
            return False
        body = payload.get("body") or ""
        try:
            self.decode_body(body, properties.get("body_encoding"))
        except (AttributeError, TypeError, ValueError):
            return False
        return isinstance(body, str)

    def _envelope_payload(
        self, payload: dict[str, Any], raw_text: str, message: dict[str, Any], q_url: str
    ) -> dict[str, Any]:
        """Return a payload with what SQS says of the message.

        Arguments:
            payload: what Kombu made, or anything else.
            raw_text: becomes the body of anything else.
            message: as boto3 returned it.
            q_url: where it came from.
        """
        if not self._is_envelope(payload):
            payload = {"body": raw_text, "properties": {"delivery_info": {}}}
        properties = payload["properties"]
        properties["delivery_info"].update(sqs_message=message, sqs_queue=q_url)
        properties["delivery_tag"] = message["ReceiptHandle"]
        return payload

    def _message_to_python(
        self, message: dict[str, Any], queue_name: str, q_url: str
    ) -> dict[str, Any]:
        """Return the dictionary that :class:`Message` takes, of a message as boto3 returned it.

        If the queue needs no acknowledgement the message is deleted.
        """
        text = self._optional_b64_decode(str_to_bytes(message["Body"])).decode("utf-8", "replace")
        payload = self._envelope_payload(self._prepare_json_payload(text), text, message, q_url)
        info = payload["properties"]["delivery_info"]
        # Of who does not use Kombu: as if published to the queue itself, so that it can be found.
        info.setdefault("exchange", "")
        info.setdefault("routing_key", self.canonical_queue_name(queue_name))
        if queue_name in self._noack_queues:
            self._delete_message(queue_name, message)
        return payload

    def _messages_to_python(
        self, messages: list[dict[str, Any]], queue: str
    ) -> list[dict[str, Any]]:
        """As :meth:`_message_to_python`, for several messages of a queue."""
        queue_url = self._new_queue(queue)
        return [self._message_to_python(message, queue, queue_url) for message in messages]

    def _delete_message(self, queue_name: str, message: dict[str, Any]) -> None:
        """Delete a message that needs no acknowledgement."""
        queue_url = self._new_queue(queue_name)
        self.asynsqs(queue=self.canonical_queue_name(queue_name)).delete_message(
            queue_url, message["ReceiptHandle"]
        )
