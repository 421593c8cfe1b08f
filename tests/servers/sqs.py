"""SQS and SNS in memory, behind doubles of boto3's clients.

As much of them as the transport uses: long polls, visibility, receive counts, raw fanout. All
requests are noted in `calls`, as (operation, arguments).
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

from kombu_rs.transport.SQS import _sdk

BASE = "http://sqs.test/123456789012/"
ARN = "arn:aws:{service}:us-east-1:123456789012:{name}"


class ServiceError(_sdk.ClientError):
    """What boto3 raises when the service answers with an error."""

    def __init__(self, code: str, operation: str = "Operation") -> None:
        Exception.__init__(self, f"An error occurred ({code}) when calling {operation}")
        self.response = {"Error": {"Code": code, "Message": f"{code} it is"}}
        self.operation_name = operation


class Config:
    """botocore's."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def merge(self, other: Config) -> Config:
        return Config(**{**self.options, **other.options})


class Stored:
    """A message in a queue."""

    def __init__(self, request: dict[str, Any], number: int) -> None:
        self.id = f"m{number}"
        self.body = request["MessageBody"]
        self.attributes = request.get("MessageAttributes")
        self.visible_at = time.monotonic() + request.get("DelaySeconds", 0)
        self.receipt = ""
        self.received = 0

    def as_received(self) -> dict[str, Any]:
        message = {
            "MessageId": self.id,
            "ReceiptHandle": self.receipt,
            "Body": self.body,
            "Attributes": {"ApproximateReceiveCount": str(self.received)},
        }
        return message | ({"MessageAttributes": self.attributes} if self.attributes else {})


class Queue:
    """A queue."""

    def __init__(self, name: str, attributes: dict[str, str], tags: dict[str, str]) -> None:
        self.url = BASE + name
        self.attributes = {
            "QueueArn": ARN.format(service="sqs", name=name),
            "VisibilityTimeout": "30",
            **attributes,
        }
        self.tags = tags
        self.messages: list[Stored] = []


class Aws:
    """The services, and a double of the module boto3."""

    __version__ = "0.double"

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.queues: dict[str, Queue] = {}
        self.topics: dict[str, dict[str, str]] = {}
        #: How each client was made: (service, credentials, arguments).
        self.clients: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        #: Raised by the next requests for these operations, in order.
        self.failures: dict[str, list[BaseException]] = {}
        #: Requests for messages that wait just now.
        self.waiting = 0
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self.session = SimpleNamespace(Session=self.Session)

    # boto3

    def Session(self, **credentials: Any) -> Any:
        def client(service: str, **arguments: Any) -> Any:
            self.clients.append((service, credentials, arguments))
            return Client(self)

        return SimpleNamespace(region_name=None, client=client)

    def client(self, service: str) -> Any:
        return Client(self)

    # What tests ask and do

    def named(self, operation: str) -> list[dict[str, Any]]:
        """The arguments of all requests for an operation."""
        return [arguments for name, arguments in self.calls if name == operation]

    def visible(self, name: str) -> int:
        """How many messages of a queue can be received."""
        now = time.monotonic()
        return sum(each.visible_at <= now for each in self.queues[name].messages)

    def size(self, name: str) -> int:
        """How many messages are in a queue."""
        return len(self.queues[name].messages)

    def send(self, name: str, body: str) -> None:
        """Send as another program does."""
        self.send_message(QueueUrl=BASE + name, MessageBody=body)

    # Requests

    def _queue(self, url: str) -> Queue:
        for queue in self.queues.values():
            if queue.url == url:
                return queue
        raise ServiceError("AWS.SimpleQueueService.NonExistentQueue")

    def list_queues(self, QueueNamePrefix: str) -> dict[str, Any]:
        urls = [q.url for name, q in self.queues.items() if name.startswith(QueueNamePrefix)]
        return {"QueueUrls": urls} if urls else {}

    def create_queue(
        self, QueueName: str, Attributes: dict[str, str], tags: dict[str, str] | None = None
    ) -> dict[str, Any]:
        queue = self.queues.setdefault(QueueName, Queue(QueueName, Attributes, tags or {}))
        return {"QueueUrl": queue.url}

    def delete_queue(self, QueueUrl: str) -> dict[str, Any]:
        del self.queues[self._queue(QueueUrl).url.rpartition("/")[2]]
        return {}

    def get_queue_url(self, QueueName: str) -> dict[str, Any]:
        return {"QueueUrl": self._queue(BASE + QueueName).url}

    def purge_queue(self, QueueUrl: str) -> dict[str, Any]:
        self._queue(QueueUrl).messages.clear()
        return {}

    def get_queue_attributes(self, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:
        queue = self._queue(QueueUrl)
        attributes = queue.attributes | {
            "ApproximateNumberOfMessages": str(self.visible(QueueUrl.rpartition("/")[2]))
        }
        return {
            "ResponseMetadata": {"HTTPStatusCode": 200},
            "Attributes": {n: attributes[n] for n in AttributeNames if n in attributes},
        }

    def set_queue_attributes(self, QueueUrl: str, Attributes: dict[str, str]) -> dict[str, Any]:
        self._queue(QueueUrl).attributes.update(Attributes)
        return {}

    def send_message(self, QueueUrl: str, **request: Any) -> dict[str, Any]:
        with self._changed:
            self._queue(QueueUrl).messages.append(Stored(request, next(self._numbers)))
            self._changed.notify_all()
        return {}

    def receive_message(
        self, QueueUrl: str, MaxNumberOfMessages: int, WaitTimeSeconds: int, **names: Any
    ) -> dict[str, Any]:
        assert 1 <= MaxNumberOfMessages <= 10
        assert 0 <= WaitTimeSeconds <= 20
        deadline = time.monotonic() + WaitTimeSeconds
        with self._changed:
            self.waiting += 1
            try:
                while True:
                    found = self._take(self._queue(QueueUrl), MaxNumberOfMessages)
                    left = deadline - time.monotonic()
                    if found or left <= 0:
                        return {"Messages": found} if found else {}
                    # Not only when notified: a delay or a visibility timeout may have passed.
                    self._changed.wait(min(left, 0.02))
            finally:
                self.waiting -= 1

    def _take(self, queue: Queue, count: int) -> list[dict[str, Any]]:
        now = time.monotonic()
        taken = [each for each in queue.messages if each.visible_at <= now][:count]
        for each in taken:
            each.received += 1
            each.receipt = f"r{next(self._numbers)}"
            each.visible_at = now + float(queue.attributes["VisibilityTimeout"])
        return [each.as_received() for each in taken]

    def _by_receipt(self, url: str, receipt: str) -> Stored:
        for each in self._queue(url).messages:
            if each.receipt == receipt:
                return each
        raise ServiceError("ReceiptHandleIsInvalid")

    def delete_message(self, QueueUrl: str, ReceiptHandle: str) -> dict[str, Any]:
        with self._changed:
            self._queue(QueueUrl).messages.remove(self._by_receipt(QueueUrl, ReceiptHandle))
        return {}

    def change_message_visibility(
        self, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int
    ) -> dict[str, Any]:
        with self._changed:
            message = self._by_receipt(QueueUrl, ReceiptHandle)
            message.visible_at = time.monotonic() + VisibilityTimeout
            self._changed.notify_all()
        return {}

    def create_topic(self, Name: str, **request: Any) -> dict[str, Any]:
        arn = ARN.format(service="sns", name=Name)
        self.topics.setdefault(arn, {})
        return {"ResponseMetadata": {"HTTPStatusCode": 200}, "TopicArn": arn}

    def subscribe(self, TopicArn: str, Endpoint: str, **request: Any) -> dict[str, Any]:
        arn = f"{TopicArn}:{next(self._numbers)}"
        self.topics[TopicArn][arn] = Endpoint
        return {"ResponseMetadata": {"HTTPStatusCode": 200}, "SubscriptionArn": arn}

    def unsubscribe(self, SubscriptionArn: str) -> dict[str, Any]:
        del self.topics[SubscriptionArn.rpartition(":")[0]][SubscriptionArn]
        return {"ResponseMetadata": {"HTTPStatusCode": 200}}

    def get_paginator(self, operation: str) -> Any:
        assert operation == "list_subscriptions_by_topic"

        def paginate(TopicArn: str) -> Iterator[dict[str, Any]]:
            for arn, endpoint in list(self.topics[TopicArn].items()):
                subscription = {"SubscriptionArn": arn, "Protocol": "sqs", "Endpoint": endpoint}
                yield {"Subscriptions": [subscription]}

        return SimpleNamespace(paginate=paginate)

    def publish(self, TopicArn: str, Message: str, **request: Any) -> dict[str, Any]:
        for endpoint in self.topics[TopicArn].values():
            name = endpoint.rpartition(":")[2]
            # As SNS does, to queues that allow it.
            policy = json.loads(self.queues[name].attributes.get("Policy", '{"Statement": []}'))
            allowed = [s["Condition"]["ArnLike"]["aws:SourceArn"] for s in policy["Statement"]]
            if any(TopicArn == topics or TopicArn in topics for topics in allowed):
                self.send(name, Message)
        return {"ResponseMetadata": {"HTTPStatusCode": 200}}

    def assume_role(self, DurationSeconds: int, **request: Any) -> dict[str, Any]:
        number = next(self._numbers)
        return {
            "Credentials": {
                "AccessKeyId": f"key{number}",
                "SecretAccessKey": f"secret{number}",
                "SessionToken": f"token{number}",
                "Expiration": datetime.now(timezone.utc) + timedelta(seconds=DurationSeconds),
            }
        }


class Client:
    """A boto3 client: makes requests, which are noted and may be made to fail."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def __getattr__(self, operation: str) -> Any:
        def request(*args: Any, **arguments: Any) -> Any:
            self._aws.calls.append((operation, arguments))
            failures = self._aws.failures.get(operation)
            if failures:
                raise failures.pop(0)
            return getattr(self._aws, operation)(*args, **arguments)

        return request


@contextmanager
def in_place_of_boto3(monkeypatch: Any) -> Iterator[Aws]:
    """Let the transport talk to a new `Aws`."""
    from kombu_rs.transport.SQS import Channel

    aws = Aws()
    monkeypatch.setattr(_sdk, "boto3", aws)
    monkeypatch.setattr(_sdk, "Config", Config)
    monkeypatch.setattr(Channel, "release_client_config", Config(connect_timeout=5))
    yield aws
