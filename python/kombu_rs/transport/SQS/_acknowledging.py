"""Acknowledging and rejecting deliveries."""

from __future__ import annotations

from typing import Any

from ...log import get_logger
from . import _sdk
from ._messages import Messages
from .exceptions import AccessDeniedQueueException

__all__ = ("Acknowledging",)

logger = get_logger("kombu.transport.SQS")

#: What SQS says of a receipt handle that is not good any more: the message was delivered again,
#: or deleted.
OUTDATED_RECEIPT = frozenset({"InvalidParameterValue", "ReceiptHandleIsInvalid"})

#: Codes that say what the credentials do not allow.
DENIED = frozenset({"AccessDenied", "AccessDeniedException"})


class Acknowledging(Messages):
    """Deletes what was handled. Whatever happens, the delivery's credit is free afterwards."""

    #: Whether SQS moves messages of a queue away that are delivered too often.
    _has_redrive_policy: Any

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Acknowledge a delivery: its message is deleted.

        Arguments:
            delivery_tag: which.
            multiple: those before it too.

        Raises:
            AccessDeniedQueueException: the credentials do not allow it. As with other errors the
                message is delivered again after the visibility timeout.
        """
        if multiple:
            for tag in self.qos.tags_before(delivery_tag):
                self.basic_ack(tag)
        backoff = False
        try:
            self._delete_delivered(delivery_tag)
        except _sdk.ClientError as exc:
            code = _sdk.error_code(exc)
            if code in DENIED:
                raise AccessDeniedQueueException(
                    exc.response["Error"].get("Message") or str(exc)
                ) from exc
            logger.warning("Could not delete acknowledged message: %s", exc)
            backoff = code not in OUTDATED_RECEIPT
        finally:
            if backoff:
                super().basic_reject(delivery_tag)
            else:
                super().basic_ack(delivery_tag)
            self._on_credit()

    def _delete_delivered(self, delivery_tag: Any) -> None:
        try:
            info = self.qos.get(delivery_tag).delivery_info
        except KeyError:
            return
        if "sqs_message" in info and "sqs_queue" in info:
            self.sqs(queue=self._queue_of(info)).delete_message(
                QueueUrl=info["sqs_queue"], ReceiptHandle=info["sqs_message"]["ReceiptHandle"]
            )

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a delivery.

        Arguments:
            delivery_tag: which.
            requeue: have its message delivered again. Without it the message is deleted, except
                if a backoff policy or its queue's redrive policy says what becomes of it.
        """
        try:
            if not requeue and not self.qos.is_backoff_task(delivery_tag):
                self._delete_rejected_message(delivery_tag)
        finally:
            try:
                super().basic_reject(delivery_tag, requeue=requeue)
            except BaseException:
                self.qos.ack(delivery_tag)
                raise
            finally:
                self._on_credit()

    def _delete_rejected_message(self, delivery_tag: Any) -> None:
        try:
            info = self.qos.get(delivery_tag).delivery_info
        except KeyError:
            return
        if "sqs_message" not in info or "sqs_queue" not in info:
            return
        queue = self._queue_of(info)
        if self._has_redrive_policy(queue, info["sqs_queue"]):
            return
        try:
            self._delete_delivered(delivery_tag)
        except _sdk.ClientError as exc:
            logger.warning("Could not delete rejected message: %s", exc)

    def _on_credit(self) -> None:
        """Called when there may be credit for more messages."""
