"""Fanout exchanges as topics of Amazon SNS, to which the queues are subscribed.

A topic is made when a queue is bound to the exchange, a subscription when the queue is first
consumed. Messages are delivered raw: a queue has the same text as if it had been sent there.
"""

from __future__ import annotations

import copy
import json
import threading
from datetime import datetime
from typing import Any

from ...exceptions import KombuError
from ...log import get_logger
from . import _sdk
from ._clients import remember_client
from ._settings import FIFO_SUFFIX
from .exceptions import (
    UnableToSubscribeQueueToTopicException,
    UnableToUnsubscribeQueueFromTopicException,
    UndefinedExchangeException,
)

__all__ = ("SNS",)

logger = get_logger("kombu.transport.SQS.SNS")

TAGS = (
    ("ManagedBy", "Celery/Kombu"),
    ("Description", "This SNS topic is used by Kombu to enable Fanout support for AWS SQS."),
)

# Marks the statement of a queue's policy that is ours.
STATEMENT_ID = "KombuManaged"
POLICY_VERSION = "2012-10-17"

# A policy that there may be, and that we may not read.
UNREADABLE: dict[str, Any] = {}

# What SQS says of a queue that is not there.
NO_SUCH_QUEUE = frozenset({"NonExistentQueue", "QueueDoesNotExist"})


def _status(response: dict[str, Any]) -> int:
    return response["ResponseMetadata"]["HTTPStatusCode"]


def _undefined(exchange: str) -> UndefinedExchangeException:
    return UndefinedExchangeException(
        f"Exchange with name {exchange!r} must be defined in 'predefined_exchanges'."
    )


class SNS:
    """The topics of a channel's fanout exchanges.

    Arguments:
        channel (Channel): whose.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.subscriptions = _SnsSubscription(self)
        #: When the credentials of predefined exchanges, if assumed, have to be renewed.
        self.sts_expiration: datetime | None = None
        self._client: Any = None
        # By exchange.
        self._predefined_clients: dict[str, Any] = {}
        self._topic_arn_cache: dict[str, str] = {}
        self._lock = threading.Lock()

    def initialise_exchange(self, exchange_name: str) -> None:
        """Make the topic of an exchange, and end subscriptions to it of queues that are gone.

        Raises:
            UndefinedExchangeException: exchanges are predefined, and it is not among them.
        """
        self.subscriptions.cleanup(exchange_name)
        self._get_or_create_topic(exchange_name)

    def publish(
        self,
        exchange_name: str,
        message: str,
        message_attributes: dict[str, Any] | None = None,
        request_params: dict[str, Any] | None = None,
    ) -> None:
        """Send a message to all queues that are subscribed.

        Arguments:
            exchange_name: to whose topic.
            message: as JSON.
            message_attributes: SNS's, by name; sent as text.
            request_params: further arguments of boto3's ``publish``.

        Raises:
            UndefinedExchangeException: there is no such topic.
        """
        topic_arn = self._get_or_create_topic(exchange_name)
        request = {"TopicArn": topic_arn, "Message": message, **(request_params or {})}
        attributes = self.serialise_message_attributes(message_attributes)
        if attributes:
            request["MessageAttributes"] = attributes
        status = _status(self.get_client(exchange_name).publish(**request))
        if status != 200:
            raise UndefinedExchangeException(
                f"Unable to send message to topic {topic_arn!r}: status code was {status}"
            )

    @staticmethod
    def serialise_message_attributes(message_attributes: dict[str, Any] | None) -> dict[str, Any]:
        """Return attributes as SNS takes them."""
        return {
            name: {"DataType": "String", "StringValue": str(value)}
            for name, value in (message_attributes or {}).items()
        }

    # Topics

    def _get_or_create_topic(self, exchange_name: str) -> str:
        """Return the ARN of an exchange's topic, which is made if there is none."""
        arn = self._topic_arn_cache.get(exchange_name)
        if arn is not None:
            return arn
        with self._lock:
            arn = self._topic_arn_cache.get(exchange_name)
            if arn is None:
                if self.channel.predefined_exchanges:
                    return self._get_topic_arn_for_predefined_exchange(exchange_name)
                arn = self._topic_arn_cache[exchange_name] = self._create_sns_topic(exchange_name)
        return arn

    def _get_topic_arn_for_predefined_exchange(self, exchange_name: str) -> str:
        settings = self.channel.predefined_exchanges.get(exchange_name)
        if settings is None:
            raise _undefined(exchange_name)
        arn = settings.get("arn")
        if not arn:
            raise UndefinedExchangeException(f"Predefined exchange {exchange_name!r} has no 'arn'.")
        self._topic_arn_cache[exchange_name] = arn
        return arn

    def _create_sns_topic(self, exchange_name: str) -> str:
        """Create a topic, or find it; returns its ARN."""
        name = self.channel.canonical_queue_name(exchange_name)
        logger.debug("Creating SNS topic %r", name)
        response = self.get_client(exchange_name).create_topic(
            Name=name,
            Attributes={"FifoTopic": "true" if name.endswith(FIFO_SUFFIX) else "false"},
            Tags=[{"Key": key, "Value": value} for key, value in TAGS],
        )
        status = _status(response)
        if status != 200:
            raise UndefinedExchangeException(
                f"Unable to create SNS topic {name!r}: status code was {status}"
            )
        logger.info("Created SNS topic %r with ARN %r", name, response["TopicArn"])
        return response["TopicArn"]

    # Clients

    def get_client(self, exchange_name: str | None = None) -> Any:
        """Return the boto3 client for an exchange's topic.

        Arguments:
            exchange_name: matters when exchanges are predefined.

        Raises:
            UndefinedExchangeException: exchanges are predefined, and it is not among them.
        """
        channel = self.channel
        if exchange_name is not None and channel.predefined_exchanges:
            settings = channel.predefined_exchanges.get(exchange_name)
            if settings is None:
                raise _undefined(exchange_name)
            if channel.transport_options.get("sts_role_arn"):
                return self._handle_sts_session(exchange_name, settings)
            client = self._predefined_clients.get(exchange_name)
            if client is None:
                client = self._predefined_clients[exchange_name] = self._create_boto_client(
                    region=settings.get("region", channel.region),
                    access_key_id=settings.get("access_key_id", channel.conninfo.userid),
                    secret_access_key=settings.get("secret_access_key", channel.conninfo.password),
                )
            return client
        if self._client is None:
            self._client = self._create_boto_client(
                region=channel.region,
                access_key_id=channel.conninfo.userid,
                secret_access_key=channel.conninfo.password,
            )
        return self._client

    def _handle_sts_session(self, exchange_name: str, e: dict[str, Any]) -> Any:
        """Return the client of a predefined exchange, with credentials that are still good."""
        if self.channel.is_sts_token_refresh_required(
            exchange_name, self._predefined_clients, self.sts_expiration
        ):
            return self._create_boto_client_with_sts_session(
                exchange_name, region=e.get("region", self.channel.region)
            )
        return self._predefined_clients[exchange_name]

    def _create_boto_client_with_sts_session(self, exchange_name: str, region: str) -> Any:
        credentials = self.channel.get_sts_credentials()
        client = self._create_boto_client(
            region=region,
            access_key_id=credentials["AccessKeyId"],
            secret_access_key=credentials["SecretAccessKey"],
            session_token=credentials["SessionToken"],
        )
        self.sts_expiration = remember_client(
            self._predefined_clients,
            exchange_name,
            client,
            self.sts_expiration,
            credentials["Expiration"],
        )
        return client

    def _create_boto_client(
        self,
        region: str | None,
        access_key_id: str | None,
        secret_access_key: str | None,
        session_token: str | None = None,
    ) -> Any:
        return self.channel._new_boto_client(
            service="sns",
            region=region,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
        )


class _SnsSubscription:
    """The subscriptions of queues to topics.

    Arguments:
        sns_fanout: the topics.
    """

    def __init__(self, sns_fanout: SNS) -> None:
        self.sns_fanout = sns_fanout
        # By queue.
        self._queue_arn_cache: dict[str, str] = {}
        # By "exchange:queue".
        self._subscription_arn_cache: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def channel(self) -> Any:
        """The channel of the topics."""
        return self.sns_fanout.channel

    def subscribe_queue(self, queue_name: str, exchange_name: str) -> str:
        """Subscribe a queue to an exchange's topic; returns the subscription's ARN.

        Raises:
            UndefinedExchangeException: there is no such topic.
            UnableToSubscribeQueueToTopicException: SNS does not do it.
        """
        key = f"{exchange_name}:{queue_name}"
        known = self._subscription_arn_cache.get(key)
        if known is not None:
            return known
        with self._lock:
            known = self._subscription_arn_cache.get(key)
            if known is not None:
                return known
            queue_arn = self._get_queue_arn(queue_name)
            topic_arn = self.sns_fanout._get_or_create_topic(exchange_name)
            # The permission first: what is published in between would be lost.
            self._set_permission_on_sqs_queue(
                topic_arn=topic_arn, queue_name=queue_name, queue_arn=queue_arn
            )
            arn = self._subscribe_queue_to_sns_topic(queue_arn=queue_arn, topic_arn=topic_arn)
            self._subscription_arn_cache[key] = arn
        return arn

    def unsubscribe_queue(self, queue_name: str, exchange_name: str) -> None:
        """End a subscription that this channel made.

        Raises:
            UnableToUnsubscribeQueueFromTopicException: SNS does not do it.
        """
        arn = self._subscription_arn_cache.pop(f"{exchange_name}:{queue_name}", None)
        if not arn:
            return
        try:
            self._unsubscribe_sns_subscription(arn)
        except Exception as exc:
            logger.error(
                "Failed to unsubscribe queue %r from SNS topic %r: %s",
                queue_name,
                exchange_name,
                exc,
            )
            raise
        logger.info("Unsubscribed subscription %r for SQS queue %r", arn, queue_name)

    def cleanup(self, exchange_name: str) -> None:
        """End the subscriptions to an exchange's topic of queues that are gone.

        One that cannot be ended is logged. Topics of predefined exchanges are left alone.
        """
        if self.channel.predefined_exchanges:
            logger.debug(
                "'predefined_exchanges' has been specified, so stale SNS subscription cleanup "
                "will be skipped."
            )
            return
        logger.debug("Checking for stale SNS subscriptions for exchange %r", exchange_name)
        topic_arn = self.sns_fanout._get_or_create_topic(exchange_name)
        for arn in self._get_invalid_sns_subscriptions(topic_arn):
            try:
                self._unsubscribe_sns_subscription(arn)
            except Exception as exc:
                logger.warning(
                    "Failed to remove stale subscription %r for SNS topic %r: %s",
                    arn,
                    topic_arn,
                    exc,
                )
            else:
                logger.info("Removed stale subscription %r for SNS topic %r", arn, topic_arn)

    # SNS

    def _subscribe_queue_to_sns_topic(self, queue_arn: str, topic_arn: str) -> str:
        logger.debug("Subscribing queue %r to SNS topic %r", queue_arn, topic_arn)
        response = self.sns_fanout.get_client(self._exchange_of(topic_arn)).subscribe(
            TopicArn=topic_arn,
            Protocol="sqs",
            Endpoint=queue_arn,
            Attributes={"RawMessageDelivery": "true"},
            ReturnSubscriptionArn=True,
        )
        status = _status(response)
        if status != 200:
            raise UnableToSubscribeQueueToTopicException(
                f"Unable to subscribe queue: status code was {status}"
            )
        arn = response["SubscriptionArn"]
        logger.info(
            "Create subscription %r for SQS queue %r to SNS topic %r", arn, queue_arn, topic_arn
        )
        return arn

    def _unsubscribe_sns_subscription(self, subscription_arn: str) -> None:
        topic_arn = subscription_arn.rpartition(":")[0]
        client = self.sns_fanout.get_client(self._exchange_of(topic_arn))
        status = _status(client.unsubscribe(SubscriptionArn=subscription_arn))
        if status != 200:
            raise UnableToUnsubscribeQueueFromTopicException(
                f"SNS unsubscribe API returned status code '{status}'"
            )

    def _exchange_of(self, topic_arn: str) -> str | None:
        """Return the exchange of a topic, whose client has the credentials for it."""
        for exchange, arn in self.sns_fanout._topic_arn_cache.items():
            if arn == topic_arn:
                return exchange
        return None

    def _get_invalid_sns_subscriptions(self, sns_topic_arn: str) -> list[str]:
        client = self.sns_fanout.get_client(self._exchange_of(sns_topic_arn))
        pages = client.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=sns_topic_arn)
        return [
            arn
            for page in pages
            for arn in self._filter_sns_subscription_response(page.get("Subscriptions"))
        ]

    def _filter_sns_subscription_response(
        self, subscriptions: list[dict[str, Any]] | None
    ) -> list[str]:
        """Return the ARNs of subscriptions whose queue is gone."""
        gone = []
        for subscription in subscriptions or ():
            arn = subscription["SubscriptionArn"]
            endpoint = subscription["Endpoint"]
            if subscription["Protocol"].lower() != "sqs" or _is_foreign(arn, endpoint):
                continue
            try:
                self.channel.sqs().get_queue_url(QueueName=endpoint.rpartition(":")[2])
            except _sdk.ClientError as exc:
                if _sdk.error_code(exc) not in NO_SUCH_QUEUE:
                    raise
                gone.append(arn)
        return gone

    # SQS

    def _sqs(self, queue_name: str) -> Any:
        return self.channel.sqs(queue=self.channel.canonical_queue_name(queue_name))

    def _get_queue_arn(self, queue_name: str) -> str:
        arn = self._queue_arn_cache.get(queue_name)
        if arn is None:
            url = self.channel._resolve_queue_url(queue_name)
            arn = self._get_queue_attributes(queue_name, url)["QueueArn"]
            self._queue_arn_cache[queue_name] = arn
        return arn

    def _get_queue_attributes(self, queue_name: str, queue_url: str) -> dict[str, Any]:
        response = self._sqs(queue_name).get_queue_attributes(
            QueueUrl=queue_url, AttributeNames=["QueueArn"]
        )
        status = _status(response)
        if status != 200:
            raise KombuError(
                f"Unable to get ARN for SQS queue {queue_name!r}: status code was '{status}'"
            )
        return response["Attributes"]

    def _set_permission_on_sqs_queue(self, topic_arn: str, queue_name: str, queue_arn: str) -> None:
        """Allow a topic to send to a queue."""
        url = self.channel._resolve_queue_url(queue_name)
        client = self._sqs(queue_name)
        existing = self._get_existing_queue_policy(client, queue_name, url)
        if existing is UNREADABLE:
            # Writing one would remove whatever it says.
            logger.error("Leaving the SQS policy of queue %r as it is", queue_name)
            return
        policy = self._generate_new_sqs_policy(existing, topic_arn, queue_arn)
        client.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
        logger.debug("Set permissions on SNS topic %r", topic_arn)

    @staticmethod
    def _get_existing_queue_policy(
        sqs_client: Any, queue_name: str, queue_url: str
    ) -> dict[str, Any]:
        """Return a queue's policy; an empty one if it has none, ``UNREADABLE`` on an error."""
        try:
            response = sqs_client.get_queue_attributes(
                QueueUrl=queue_url, AttributeNames=["Policy"]
            )
        except _sdk.ClientError as exc:
            logger.warning(
                "Unable to retrieve existing SQS policy for queue %r: %s", queue_name, exc
            )
            return UNREADABLE
        text = response.get("Attributes", {}).get("Policy")
        if not isinstance(text, str):
            return {}
        try:
            policy = json.loads(text)
        except ValueError as exc:
            logger.error("Existing SQS policy for queue %r is malformed: %s", queue_name, exc)
            return {}
        return policy if isinstance(policy, dict) else {}

    def _generate_new_sqs_policy(
        self, existing_policy: dict[str, Any], topic_arn: str, queue_arn: str
    ) -> dict[str, Any]:
        """Return a queue's policy with our statement; others stay.

        There is one of ours, for all topics that send to the queue.
        """
        topics: Any = topic_arn
        others = []
        for statement in self._extract_statements_from_policy(existing_policy):
            if statement.get("Sid") != STATEMENT_ID:
                others.append(copy.deepcopy(statement))
            elif statement.get("Resource") == queue_arn:
                topics = _with_topic(statement, topic_arn)
        ours = {
            "Sid": STATEMENT_ID,
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "SQS:SendMessage",
            "Resource": queue_arn,
            "Condition": {"ArnLike": {"aws:SourceArn": topics}},
        }
        return {
            "Version": POLICY_VERSION,
            **copy.deepcopy(existing_policy),
            "Statement": [*others, ours],
        }

    @staticmethod
    def _extract_statements_from_policy(policy: Any) -> list[dict[str, Any]]:
        """Return the statements of a policy, which may have one without a list."""
        statements = (policy or {}).get("Statement") or []
        return [statements] if isinstance(statements, dict) else list(statements)


def _with_topic(statement: dict[str, Any], topic_arn: str) -> Any:
    """Return the topics of a statement of ours, and another: text if that is all."""
    try:
        topics = statement["Condition"]["ArnLike"]["aws:SourceArn"]
    except (KeyError, TypeError):
        return topic_arn
    known = topics if isinstance(topics, list) else [topics]
    merged = sorted({*known, topic_arn})
    return merged if len(merged) > 1 else topic_arn


def _is_foreign(subscription_arn: str, queue_arn: str) -> bool:
    """Whether a queue cannot be looked up: of another account than the topic, or region.

    An ARN is ``arn:partition:service:region:account:name``.
    """
    ours, theirs = subscription_arn.split(":"), queue_arn.split(":")
    if len(ours) < 6 or len(theirs) < 6:
        return subscription_arn == "PendingConfirmation"
    return ours[3:5] != theirs[3:5]
