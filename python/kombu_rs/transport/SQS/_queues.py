"""Queues: their names, URLs and attributes."""

from __future__ import annotations

from typing import Any

from ...log import get_logger
from ._clients import Clients, undefined_queue
from ._settings import FIFO_SUFFIX
from .exceptions import (
    DoesNotExistQueueException,
    InvalidQueueException,
    UndefinedQueueException,
)

__all__ = ("Queues",)

logger = get_logger("kombu.transport.SQS")


class Queues(Clients):
    """Finds, makes and removes queues."""

    #: The topics of fanout exchanges.
    fanout: Any

    @property
    def _queue_cache(self) -> dict[str, str]:
        """URLs by name in AWS."""
        return self._transport._queue_cache

    @property
    def _noack_queues(self) -> set[str]:
        """Queues whose messages need no acknowledgement."""
        return self._transport._noack_queues

    def _validate_predifined_queues(self) -> None:
        """Check predefined queues, and note their URLs.

        Raises:
            InvalidQueueException: a name and its URL do not agree on FIFO.
        """
        for name, settings in self.predefined_queues.items():
            if not isinstance(settings, dict) or not isinstance(settings.get("url"), str):
                raise InvalidQueueException(f"Predefined queue {name!r} has no 'url'")
            url = settings["url"]
            if name.endswith(FIFO_SUFFIX) != url.endswith(FIFO_SUFFIX):
                raise InvalidQueueException(
                    f"Predefined queue {name!r} and its URL {url!r} must both end with "
                    f"{FIFO_SUFFIX!r} if it is a FIFO queue, and else not"
                )
            self._queue_cache[name] = url

    def _update_queue_cache(self, queue_name_prefix: str) -> None:
        """Note the URLs of the queues whose names begin so."""
        found = self.sqs().list_queues(QueueNamePrefix=queue_name_prefix)
        for url in found.get("QueueUrls") or ():
            self._queue_cache[url.rpartition("/")[2]] = url

    def _find_queue(self, name: str) -> str | None:
        """Return the URL of a queue by its name in AWS; None if there is none.

        Raises:
            UndefinedQueueException: queues are predefined, and it is not among them.
        """
        if name not in self._queue_cache:
            if self.predefined_queues:
                raise undefined_queue(name)
            self._update_queue_cache(name)
        return self._queue_cache.get(name)

    def _resolve_queue_url(self, queue: str) -> str:
        """Return the URL of a queue.

        Raises:
            DoesNotExistQueueException: there is none.
            UndefinedQueueException: queues are predefined, and it is not among them.
        """
        name = self.canonical_queue_name(queue)
        url = self._find_queue(name)
        if url is None:
            raise DoesNotExistQueueException(f"Queue with name {name!r} doesn't exist in SQS")
        return url

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        """Whether a queue is there."""
        return self._find_queue(self.canonical_queue_name(queue)) is not None

    def _new_queue(self, queue: str, **kwargs: Any) -> str:  # type: ignore[override]
        """Return the URL of a queue, which is made if there is none.

        Raises:
            UndefinedQueueException: queues are predefined, and it is not among them.
        """
        name = self.canonical_queue_name(queue)
        url = self._find_queue(name)
        if url is None:
            # Whole seconds, as text: options come from files and environments.
            attributes = {"VisibilityTimeout": str(int(float(self.visibility_timeout)))}
            if name.endswith(FIFO_SUFFIX):
                attributes["FifoQueue"] = "true"
            url = self._create_queue(name, attributes)["QueueUrl"]
            self._queue_cache[name] = url
        return url

    def _create_queue(self, queue_name: str, attributes: dict[str, Any]) -> Any:
        """Create a queue.

        Arguments:
            queue_name: its name in AWS.
            attributes: SQS's; those of the option ``sqs-creation-attributes`` win.

        Raises:
            UndefinedQueueException: queues are predefined.
        """
        if self.predefined_queues:
            raise undefined_queue(queue_name)
        request: dict[str, Any] = {
            "QueueName": queue_name,
            "Attributes": {**attributes, **self._dictionary("sqs-creation-attributes")},
        }
        tags = self._dictionary("queue_tags")
        if tags:
            request["tags"] = tags
        return self.sqs().create_queue(**request)

    def _delete(self, queue: str, exchange: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Delete a queue, and its subscription to a fanout exchange; never a predefined queue.

        Arguments:
            queue: its name.
            exchange: one that it was bound to, if any.
        """
        if self.predefined_queues:
            return
        name = self.canonical_queue_name(queue)
        # This is called for each of its bindings: the first deletes it.
        if exchange is None or self._find_queue(name) is not None:
            self.sqs().delete_queue(QueueUrl=self._resolve_queue_url(queue))
            self._queue_cache.pop(name, None)
        if exchange is not None and self._exchange_is_fanout(exchange):
            self.fanout.subscriptions.unsubscribe_queue(queue_name=queue, exchange_name=exchange)

    def _size(self, queue: str) -> int:
        """How many messages wait in a queue, as far as SQS knows."""
        url = self._new_queue(queue)
        client = self.sqs(queue=self.canonical_queue_name(queue))
        answer = client.get_queue_attributes(
            QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    def _purge(self, queue: str) -> int:
        """Delete all messages of a queue; returns how many there were, as far as SQS knows."""
        url = self._new_queue(queue)
        size = self._size(queue)
        self.sqs(queue=self.canonical_queue_name(queue)).purge_queue(QueueUrl=url)
        return size

    # Fanout

    def _exchange_is_fanout(self, exchange_name: str) -> bool:
        """Whether an exchange is a topic of SNS."""
        return (
            self.supports_fanout
            and exchange_name in self.state.exchanges
            and self.typeof(exchange_name).type == "fanout"
        )

    def _exchanges_of(self, queue_name: str) -> list[str]:
        exchanges = [
            exchange
            for exchange in self.state.exchanges
            if any(row[2] == queue_name for row in self.get_table(exchange))
        ]
        if not exchanges:
            raise UndefinedQueueException(f"Queue {queue_name!r} has not been defined.")
        return exchanges

    def _get_exchange_for_queue(self, queue_name: str) -> str:
        """Return the first exchange that a queue is bound to.

        Raises:
            UndefinedQueueException: it is bound to none.
        """
        return self._exchanges_of(queue_name)[0]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        """Make the topic of a fanout exchange."""
        if self._exchange_is_fanout(exchange):
            self.fanout.initialise_exchange(exchange)

    def _subscribe_queue_to_fanout_exchange_if_required(self, queue_name: str) -> None:
        """Subscribe a queue to the topics of the fanout exchanges that it is bound to."""
        if not self.supports_fanout:
            return
        try:
            exchanges = self._exchanges_of(queue_name)
        except UndefinedQueueException as exc:
            logger.debug("Not subscribing queue %r to fanout exchange: %s", queue_name, exc)
            return
        for exchange in exchanges:
            if self._exchange_is_fanout(exchange):
                self.fanout.subscriptions.subscribe_queue(
                    queue_name=queue_name, exchange_name=exchange
                )

    def remove_stale_sns_subscriptions(self, exchange_name: str) -> None:
        """End the subscriptions of queues that are gone to the topic of a fanout exchange."""
        if self._exchange_is_fanout(exchange_name):
            self.fanout.subscriptions.cleanup(exchange_name)
