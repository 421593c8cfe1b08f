"""The ledger of deliveries, with different delays between the attempts at a task."""

from __future__ import annotations

from typing import Any

from .. import virtual
from ._settings import maybe_int

__all__ = ("QoS",)


class QoS(virtual.QoS):
    """The ledger of a channel.

    A predefined queue may have a ``backoff_policy``, seconds by number of deliveries, and
    ``backoff_tasks``, names of Celery tasks. A message of such a task that is rejected without
    being requeued is delivered again after these seconds.
    """

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Note that a message was rejected; apply its queue's backoff policy."""
        super().reject(delivery_tag, requeue=requeue)
        if requeue:
            return
        queue, policy, tasks = self._backoff(delivery_tag)
        if queue is not None and policy and tasks:
            self.apply_backoff_policy(queue, delivery_tag, policy, tasks)

    def _backoff(self, delivery_tag: Any) -> tuple[str | None, Any, Any]:
        """Return queue, policy and tasks for a delivery; None each if there is no policy."""
        message = self._delivered.get(delivery_tag)
        if message is None:
            return None, None, None
        queue = self.channel._queue_of(message.delivery_info)
        settings = self.channel.predefined_queues.get(queue)
        if not settings:
            return None, None, None
        return queue, settings.get("backoff_policy"), settings.get("backoff_tasks")

    def is_backoff_task(self, delivery_tag: Any) -> bool:
        """Whether a backoff policy says when the delivery's task is tried again."""
        _, policy, tasks = self._backoff(delivery_tag)
        if not policy or not tasks:
            return False
        return self._task_name(self._delivered[delivery_tag]) in tasks

    def apply_backoff_policy(
        self, routing_key: str, delivery_tag: Any, backoff_policy: Any, backoff_tasks: Any
    ) -> None:
        """Have a delivery's message delivered again after the policy's seconds.

        Arguments:
            routing_key: name of its queue.
            delivery_tag: which delivery.
            backoff_policy: seconds by number of deliveries; without that number the queue's
                visibility timeout applies.
            backoff_tasks: names of the tasks that this is for.
        """
        task, attempts = self.extract_task_name_and_number_of_retries(delivery_tag)
        if task is None or attempts is None or task not in backoff_tasks:
            return
        # A policy that comes from JSON has text for numbers.
        seconds = backoff_policy.get(attempts, backoff_policy.get(str(attempts)))
        if seconds is not None:
            self.channel.sqs(routing_key).change_message_visibility(
                QueueUrl=self.channel._queue_cache[routing_key],
                ReceiptHandle=delivery_tag,
                VisibilityTimeout=seconds,
            )

    def extract_task_name_and_number_of_retries(
        self, delivery_tag: Any
    ) -> tuple[str | None, int | None]:
        """Return the Celery task of a delivery, and how often it was delivered."""
        message = self._delivered[delivery_tag]
        sqs_message = message.properties["delivery_info"]["sqs_message"]
        attempts = maybe_int(sqs_message.get("Attributes", {}).get("ApproximateReceiveCount"))
        return self._task_name(message), attempts if isinstance(attempts, int) else None

    @staticmethod
    def _task_name(message: Any) -> str | None:
        return (message.headers or {}).get("task")
