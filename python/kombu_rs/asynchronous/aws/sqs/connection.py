"""Requests to SQS that an event loop does not wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ....log import get_logger
from ...crew import Call, get_crew

__all__ = ("AsyncSQSConnection", "receive_request")

logger = get_logger("kombu.asynchronous.aws.sqs.connection")

#: What stands for every attribute in lists of attributes, and SQS's own spelling of it.
ALL_ATTRIBUTES = "ALL"
ALL_ATTRIBUTES_OF_SQS = "All"


def receive_request(
    queue_url: str,
    count: int,
    wait_time_seconds: int,
    system_attributes: Sequence[str] = (),
    attributes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the arguments of boto3's ``receive_message``.

    Arguments:
        queue_url: of which queue.
        count: most messages to get, 1 to 10.
        wait_time_seconds: how long the server waits for the first, 0 to 20.
        system_attributes: names of SQS's attributes to get with each.
        attributes: names of the sender's attributes to get.
    """
    request: dict[str, Any] = {
        "QueueUrl": queue_url,
        "MaxNumberOfMessages": count,
        "WaitTimeSeconds": wait_time_seconds,
    }
    for argument, names in (
        ("MessageSystemAttributeNames", system_attributes),
        ("MessageAttributeNames", attributes),
    ):
        if names:
            request[argument] = [
                ALL_ATTRIBUTES_OF_SQS if name == ALL_ATTRIBUTES else name for name in names
            ]
    return request


class AsyncSQSConnection:
    """A boto3 client whose requests are made on threads.

    Arguments:
        sqs_connection: the client. Threads may share it.
        debug (int): not used.
        region (str): its region; for who asks.
        message_system_attribute_names (Sequence): SQS's attributes to get with each message.
        message_attribute_names (Sequence): the sender's attributes to get.
        hub (Hub): the event loop that gets the results; without one there is no thread.
    """

    def __init__(
        self,
        sqs_connection: Any,
        debug: int = 0,
        region: str | None = None,
        message_system_attribute_names: Sequence[str] | None = None,
        message_attribute_names: Sequence[str] | None = None,
        hub: Any = None,
        **kwargs: Any,
    ) -> None:
        self.sqs_connection = sqs_connection
        self.region = region
        self.message_system_attribute_names = sorted(message_system_attribute_names or ())
        self.message_attribute_names = sorted(message_attribute_names or ())
        self.hub = hub

    def receive_message(
        self,
        queue_url: str,
        callback: Callable[[Any, BaseException | None], Any],
        late: Callable[[Any], Any] | None = None,
        number_messages: int = 1,
        wait_time_seconds: int = 0,
    ) -> Call:
        """Ask for messages.

        Arguments:
            queue_url: of which queue.
            callback: called on the event loop with boto3's response and None, or with None and
                the exception.
            late: called, on any thread, with a response that comes after the call was cancelled.
            number_messages: how many at most.
            wait_time_seconds: how long the server waits for the first.

        Returns:
            What can be cancelled.
        """
        request = receive_request(
            queue_url,
            number_messages,
            wait_time_seconds,
            self.message_system_attribute_names,
            self.message_attribute_names,
        )
        receive = partial(self.sqs_connection.receive_message, **request)
        return get_crew().submit(Call(self.hub, receive, callback, late))

    def delete_message(self, queue: str, receipt_handle: str) -> None:
        """Delete a message; without an event loop now, else soon.

        With an event loop a failure is logged: SQS delivers the message again.

        Arguments:
            queue: URL of its queue.
            receipt_handle: which it came with.
        """
        delete = partial(
            self.sqs_connection.delete_message, QueueUrl=queue, ReceiptHandle=receipt_handle
        )
        if self.hub is None:
            delete()
        else:
            get_crew().submit(Call(self.hub, delete, _on_deleted, waits=False))


def _on_deleted(result: Any, error: BaseException | None) -> None:
    if error is not None:
        logger.warning("Could not delete a message: %r", error)
