"""The SQS transport, on doubles of boto3's clients."""

from __future__ import annotations

import base64
import json
import logging

import pytest

from kombu_rs import Connection, Consumer, Exchange, Producer, Queue
from kombu_rs.exceptions import ChannelError
from kombu_rs.transport.SQS import _sdk
from kombu_rs.transport.SQS.exceptions import (
    AccessDeniedQueueException,
    DoesNotExistQueueException,
    InvalidQueueException,
    UndefinedExchangeException,
    UndefinedQueueException,
)
from servers.sqs import BASE, ServiceError, in_place_of_boto3

direct = Exchange("direct.exchange")
orders = Queue("orders", direct, "order")


@pytest.fixture
def aws(monkeypatch):
    with in_place_of_boto3(monkeypatch) as aws:
        yield aws


@pytest.fixture
def connect(aws):
    """Makes connections that are closed at the end."""
    opened = []

    def connect(url="sqs://KEY:secret@", **options):
        options = {"wait_time_seconds": 0, "polling_interval": 0.01, **options}
        connection = Connection(url, transport_options=options)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def channel(connect):
    return connect().channel()


def publish(channel, body, **properties):
    properties = {"exchange": direct, "routing_key": "order", **properties}
    Producer(channel).publish(body, declare=[orders], **properties)


def get(channel, **kwargs):
    return orders(channel).get(**kwargs)


# Settings


def test_without_boto3(monkeypatch):
    monkeypatch.setattr(_sdk, "boto3", None)
    connection = Connection("sqs://KEY:secret@")
    assert "secret" not in f"{connection!r} {connection.as_uri()}"
    with pytest.raises(ImportError, match=r"boto3: pip install 'kombu-rs\[sqs\]'"):
        connection.connect()


def test_client_gets_what_url_and_options_say(aws, connect):
    connect(
        "sqs://K%2F:s%2Fcret@localhost:4566", region="eu-west-1", **{"client-config": {"a": 1}}
    ).connect()
    service, credentials, arguments = aws.clients[0]
    assert service == "sqs"
    assert credentials["aws_access_key_id"] == "K/"
    assert credentials["aws_secret_access_key"] == "s/cret"
    assert credentials["region_name"] == "eu-west-1"
    assert arguments["endpoint_url"] == "http://localhost:4566"
    assert arguments["config"].options["a"] == 1


@pytest.mark.parametrize(
    ("url", "options", "endpoint"),
    [
        ("sqs://", {}, None),
        ("sqs://a:b@", {}, None),
        ("sqs://host", {}, "http://host"),
        ("sqs://host:1", {"is_secure": True}, "https://host:1"),
        ("sqs://", {"endpoint_url": "http://e"}, "http://e"),
        ("sqs://host", {"endpoint_url": "http://e"}, "http://e"),
    ],
)
def test_endpoint(connect, url, options, endpoint):
    assert connect(url, **options).channel().endpoint_url == endpoint


def test_channels_of_a_connection_share_a_client(aws, connect):
    connection = connect()
    assert connection.channel().sqs() is connection.channel().sqs()
    assert len(aws.clients) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("wait_time_seconds", "soon"),
        ("wait_time_seconds", 21),
        ("wait_time_seconds", -1),
        ("predefined_queues", ["a"]),
        ("client-config", "fast"),
    ],
)
def test_option_with_a_value_that_it_cannot_have(connect, option, value):
    with pytest.raises(ValueError, match=f"transport option {option} must be"):
        connect(**{option: value}).channel()


def test_names(connect):
    channel = connect(queue_name_prefix="app.").channel()
    assert channel.canonical_queue_name("a.b/c") == "app-a-b_c"
    assert channel.canonical_queue_name("a.b.fifo") == "app-a-b.fifo"


# Queues


def test_queue_is_created_once_with_its_attributes(aws, connect):
    options = {
        "visibility_timeout": "90.0",
        "sqs-creation-attributes": {"KmsMasterKeyId": "k"},
        "queue_tags": {"team": "x"},
    }
    for _ in range(2):
        connect(**options).channel().queue_declare("orders.fifo")
    assert aws.named("create_queue") == [
        {
            "QueueName": "orders.fifo",
            "Attributes": {"VisibilityTimeout": "90", "FifoQueue": "true", "KmsMasterKeyId": "k"},
            "tags": {"team": "x"},
        }
    ]


def test_passive_declaration_creates_nothing(aws, channel):
    with pytest.raises(ChannelError, match="NOT_FOUND - no queue 'missing'"):
        channel.queue_declare("missing", passive=True)
    assert not aws.queues
    channel.queue_declare("there")
    assert channel.queue_declare("there", passive=True).message_count == 0


def test_delete_and_purge(aws, channel):
    publish(channel, 1)
    publish(channel, 2)
    assert orders(channel).purge() == 2
    assert aws.size("orders") == 0
    # Bound twice: deleted once.
    orders(channel).bind_to(direct, "other")
    orders(channel).delete()
    assert not aws.queues
    with pytest.raises(DoesNotExistQueueException, match="'missing'"):
        channel._delete("missing")


# Messages


def test_layout(aws, channel):
    publish(channel, {"a": "ä"}, headers={"h": 1}, correlation_id="c", priority=3)
    envelope = json.loads(base64.b64decode(aws.queues["orders"].messages[0].body))
    assert base64.b64decode(envelope.pop("body")) == b'{"a": "\\u00e4"}'
    envelope["properties"].pop("delivery_tag")
    assert envelope == {
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"h": 1},
        "properties": {
            "correlation_id": "c",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "direct.exchange", "routing_key": "order"},
            "priority": 3,
            "body_encoding": "base64",
        },
    }


@pytest.mark.parametrize("encoded", [True, False])
def test_round_trip(connect, encoded):
    channel = connect(sqs_base64_encoding=encoded).channel()
    publish(channel, {"a": "ä"}, headers={"h": "ü"}, correlation_id="c")
    publish(channel, b"\xff\x00", compression="zlib")
    first, second = get(channel), get(channel)
    assert (first.payload, first.headers, first.properties["correlation_id"]) == (
        {"a": "ä"},
        {"h": "ü"},
        "c",
    )
    assert second.payload == b"\xff\x00"
    assert first.delivery_info["routing_key"] == "order"


def test_attributes_travel_beside_the_body(aws, connect):
    channel = connect(
        fetch_message_attributes={
            "MessageSystemAttributeNames": ["All"],
            "MessageAttributeNames": ["b", "a"],
        }
    ).channel()
    topic = Exchange("topics", "topic")
    queues = [Queue(f"topic{i}", topic, "a.#") for i in range(2)]
    attributes = {"a": {"DataType": "String", "StringValue": "v"}}
    Producer(channel).publish(
        1, exchange=topic, routing_key="a.b", declare=queues, message_attributes=attributes
    )
    for queue in queues:
        message = queue(channel).get()
        assert "message_attributes" not in message.properties
        assert message.delivery_info["sqs_message"]["MessageAttributes"] == attributes
    request = aws.named("receive_message")[0]
    assert request["MessageSystemAttributeNames"] == ["All"]
    assert request["MessageAttributeNames"] == ["a", "b"]


def test_order_and_delay(aws, channel, caplog):
    publish(channel, 1, delay_seconds="5000", MessageGroupId="g")
    fifo = Queue("orders.fifo", direct, "fifo")
    for properties in ({"DelaySeconds": 1}, {"MessageGroupId": "g", "MessageDeduplicationId": "d"}):
        Producer(channel).publish(
            1, exchange=direct, routing_key="fifo", declare=[fifo], **properties
        )
    plain, default, explicit = (
        {k: v for k, v in sent.items() if k not in ("QueueUrl", "MessageBody")}
        for sent in aws.named("send_message")
    )
    assert plain == {"DelaySeconds": 900, "MessageGroupId": "g"}
    assert "exceeds the maximum of SQS" in caplog.text
    assert default.pop("MessageDeduplicationId")
    assert default == {"MessageGroupId": "default"}
    assert "FIFO queues take no per-message delay, ignoring delay of 1 seconds" in caplog.text
    assert explicit == {"MessageGroupId": "g", "MessageDeduplicationId": "d"}


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "True",
        "{}",
        '{"a": 1}',
        "[" * 100_000,
        '{"properties": 5}',
        '{"properties": {"delivery_info": null}}',
        '{"properties": {}, "headers": [1]}',
        '{"properties": {}, "body": {"x": 1}}',
        '{"properties": {"body_encoding": "base64"}, "body": "a"}',
        '{"properties": {"body_encoding": "rot13"}, "body": "a"}',
        '{"properties": {"body_encoding": 5}, "body": "a"}',
    ],
)
def test_what_others_send_is_a_body(aws, channel, text):
    orders(channel).declare()
    aws.send("orders", text)
    message = get(channel)
    assert message.payload == text
    assert message.delivery_info["routing_key"] == "orders"
    message.requeue()
    assert aws.visible("orders") == 1
    get(channel).ack()
    assert aws.size("orders") == 0


def test_base64_of_others_is_decoded(aws, channel):
    orders(channel).declare()
    aws.send("orders", base64.b64encode("grüße".encode()).decode())
    assert get(channel).payload == "grüße"


# Acknowledging


def test_acknowledgement_deletes(aws, channel):
    publish(channel, 1)
    message = get(channel)
    assert get(channel) is None
    assert (aws.size("orders"), aws.visible("orders")) == (1, 0)
    message.ack()
    assert aws.size("orders") == 0


def test_acknowledgement_of_all_before(aws, channel):
    for i in range(3):
        publish(channel, i)
    messages = [get(channel) for _ in range(3)]
    messages[1].ack(multiple=True)
    assert aws.size("orders") == 1


def test_acknowledgement_does_not_look_through_all_queues(aws, channel, monkeypatch):
    class Changing(dict):
        def items(self):
            raise RuntimeError("dictionary changed size during iteration")

    publish(channel, 1)
    publish(channel, 2)
    messages = [get(channel) for _ in range(2)]
    monkeypatch.setattr(channel._transport, "_queue_cache", Changing(channel._queue_cache))
    messages[0].ack()
    messages[1].reject()
    assert aws.size("orders") == 0


def test_without_acknowledgement(aws, channel):
    publish(channel, 1)
    assert get(channel, no_ack=True).payload == 1
    assert aws.size("orders") == 0


def test_reject_and_requeue(aws, channel):
    publish(channel, 1)
    get(channel).requeue()
    assert aws.visible("orders") == 1
    again = get(channel)
    assert again.delivery_info["sqs_message"]["Attributes"]["ApproximateReceiveCount"] == "2"
    again.reject()
    assert aws.size("orders") == 0


def test_redrive_policy_keeps_what_is_rejected(aws, channel):
    publish(channel, 1)
    aws.queues["orders"].attributes["RedrivePolicy"] = "{}"
    get(channel).reject()
    assert (aws.size("orders"), aws.visible("orders")) == (1, 0)


def test_failed_acknowledgement_frees_the_credit(aws, channel, caplog):
    channel.basic_qos(0, 1, False)
    for error in (ServiceError("AccessDenied"), OSError("gone"), ServiceError("InternalError")):
        publish(channel, 1)
        message = get(channel)
        assert not channel.qos.can_consume()
        aws.failures["delete_message"] = [error]
        if isinstance(error, ServiceError) and "Internal" in str(error):
            message.ack()
            assert "Could not delete acknowledged message" in caplog.text
        else:
            expected = OSError if isinstance(error, OSError) else AccessDeniedQueueException
            with pytest.raises(expected):
                message.ack()
        assert channel.qos.can_consume()


def test_close_gives_back_at_once(aws, connect):
    connection = connect(wait_time_seconds=10)
    for i in range(3):
        publish(connection.default_channel, i)
    message, *_ = [get(connection.default_channel) for _ in range(3)]
    assert aws.visible("orders") == 0
    connection.close()
    assert aws.visible("orders") == 3
    # Too late, and no error: somebody else may have it now.
    message.ack()
    assert aws.size("orders") == 3


def test_close_without_network_tries_once(aws, connect, caplog):
    connection = connect()
    for i in range(3):
        publish(connection.default_channel, i)
    for _ in range(3):
        get(connection.default_channel)
    aws.failures["change_message_visibility"] = [OSError("gone")]
    connection.close()
    assert len(aws.named("change_message_visibility")) == 1
    assert f"Failed to release messages of queue {BASE}orders: gone" in caplog.text


# Consuming without an event loop


def test_prefetch_count(aws, connect):
    connection = connect()
    channel = connection.channel()
    for i in range(5):
        publish(channel, i)
    got = []
    with Consumer(channel, [orders], on_message=got.append) as consumer:
        consumer.qos(prefetch_count=3)
        connection.drain_events(timeout=1)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.05)
        assert [message.payload for message in got] == [0, 1, 2]
        for message in got:
            message.ack()
        connection.drain_events(timeout=1)
    assert [message.payload for message in got] == [0, 1, 2, 3, 4]


def test_no_ack_consumer_deletes(aws, connect):
    connection = connect()
    channel = connection.channel()
    publish(channel, 1)
    got = []
    with Consumer(channel, [orders], on_message=got.append, no_ack=True):
        connection.drain_events(timeout=1)
    assert [message.payload for message in got] == [1]
    assert aws.size("orders") == 0


def test_callback_that_raises_loses_nothing(connect):
    connection = connect()
    channel = connection.channel()
    for i in range(3):
        publish(channel, i)
    got = []

    def on_message(message):
        got.append(message.payload)
        message.ack()
        if message.payload == 0:
            raise RuntimeError("of the user")

    with Consumer(channel, [orders], on_message=on_message):
        with pytest.raises(RuntimeError, match="of the user"):
            connection.drain_events(timeout=1)
        connection.drain_events(timeout=1)
    assert got == [0, 1, 2]


def test_short_timeout_is_kept(aws, connect):
    connection = connect(wait_time_seconds=20)
    with Consumer(connection, [orders], on_message=print), pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)
    # SQS counts in whole seconds; with 0 it would not ask all its servers.
    assert {each["WaitTimeSeconds"] for each in aws.named("receive_message")} == {1}


# Predefined queues


PREDEFINED = {
    "first": {"url": BASE + "first", "access_key_id": "K1", "secret_access_key": "S1"},
    "second": {
        "url": BASE + "second",
        "region": "eu-west-1",
        "backoff_policy": {"1": 7, 2: 11},
        "backoff_tasks": ["slow"],
    },
}


@pytest.fixture
def predefined(aws):
    for name in PREDEFINED:
        aws.create_queue(QueueName=name, Attributes={})
    return PREDEFINED


def test_predefined_queues_have_their_own_credentials(aws, connect, predefined):
    channel = connect(predefined_queues=predefined).channel()
    for name in predefined:
        Producer(channel).publish(1, routing_key=name)
    assert [
        (credentials["aws_access_key_id"], credentials["region_name"])
        for _, credentials, _ in aws.clients
    ] == [("K1", "us-east-1"), ("KEY", "eu-west-1")]
    assert not aws.named("list_queues")
    with pytest.raises(UndefinedQueueException, match="'third' must be defined in 'predefined_"):
        channel.queue_declare("third")
    channel.queue_delete("first")
    assert not aws.named("delete_queue")


@pytest.mark.parametrize(
    "settings", [{"url": BASE + "q.fifo"}, {"access_key_id": "k"}, {"url": None}, "q"]
)
def test_predefined_queue_that_cannot_be(connect, settings):
    with pytest.raises(InvalidQueueException, match="Predefined queue 'q'"):
        connect(predefined_queues={"q": settings}).channel()


def test_queue_of_a_message_is_known_by_its_url(connect, predefined):
    channel = connect(predefined_queues=predefined).channel()
    by_url = {"routing_key": "of a fanout", "sqs_queue": predefined["second"]["url"]}
    assert channel._queue_of(by_url) == "second"
    assert channel._queue_of({**by_url, "sqs_queue": "https://elsewhere"}) is None


def test_backoff_policy(aws, connect, predefined):
    channel = connect(predefined_queues=predefined).channel()
    # The routing key is not the queue's name.
    queue = Queue("second", direct, "key")
    for task in ("slow", "fast"):
        Producer(channel).publish(
            1, exchange=direct, routing_key="key", declare=[queue], headers={"task": task}
        )
    slow, fast = queue(channel).get(), queue(channel).get()
    slow.reject()
    fast.reject()
    assert [each["VisibilityTimeout"] for each in aws.named("change_message_visibility")] == [7]
    assert aws.size("second") == 1


def test_assumed_role_is_renewed(aws, connect, predefined):
    channel = connect(
        predefined_queues=predefined, sts_role_arn="arn:role", sts_token_buffer_time=10
    ).channel()
    first = channel.sqs("first")
    assert channel.sqs("first") is first
    channel.sqs("second")
    assert [each["DurationSeconds"] for each in aws.named("assume_role")] == [900, 900]
    assert aws.clients[0][1]["aws_session_token"].startswith("token")
    # The first of both that expires counts, and then both are renewed.
    channel.sts_expiration = channel.sts_expiration.replace(year=2000)
    assert channel.sqs("first") is not first
    channel.sqs("second")
    assert len(aws.named("assume_role")) == 4


# Fanout


def test_fanout(aws, connect):
    news = Exchange("the.news", "fanout")
    connections = [connect(supports_fanout=True, queue_name_prefix="p-") for _ in range(2)]
    got = []
    consumers = [
        Consumer(each, [Queue(f"news{i}", news)], callbacks=[lambda body, m: got.append(body)])
        for i, each in enumerate(connections)
    ]
    for consumer in consumers:
        consumer.consume()
    Producer(connections[0]).publish(
        {"a": "ä"}, exchange=news, message_attributes={"kind": 1}, declare=[news]
    )
    for each in connections:
        each.drain_events(timeout=1)
    assert got == [{"a": "ä"}] * 2
    assert aws.named("create_topic")[0]["Name"] == "p-the-news"
    assert aws.named("subscribe")[0]["Attributes"] == {"RawMessageDelivery": "true"}
    assert aws.named("publish")[0]["MessageAttributes"] == {
        "kind": {"DataType": "String", "StringValue": "1"}
    }
    consumers[0].cancel()
    consumers[0].queues[0].delete()
    (topic,) = aws.topics.values()
    assert list(topic.values()) == ["arn:aws:sqs:us-east-1:123456789012:p-news1"]


def test_queue_may_have_two_topics_and_a_policy_of_its_own(aws, connect):
    exchanges = [Exchange(name, "fanout") for name in ("one", "two")]
    connection = connect(supports_fanout=True)
    channel = connection.channel()
    queue = Queue("both", exchanges[0])(channel)
    queue.declare()
    own = {"Sid": "Mine", "Effect": "Deny", "Condition": {"ArnLike": {"aws:SourceArn": "other"}}}
    aws.queues["both"].attributes["Policy"] = json.dumps({"Statement": own})
    exchanges[1](channel).declare()
    queue.bind_to(exchanges[1])
    got = []
    with Consumer(channel, [queue], on_message=got.append, auto_declare=False):
        for exchange in exchanges:
            Producer(channel).publish(exchange.name, exchange=exchange)
        connection.drain_events(timeout=1)
    assert [message.payload for message in got] == ["one", "two"]
    policy = json.loads(aws.queues["both"].attributes["Policy"])
    assert policy["Statement"][0] == own
    assert len(policy["Statement"]) == 2


def test_policy_that_cannot_be_read_is_left_alone(aws, connect, caplog):
    channel = connect(supports_fanout=True).channel()
    queue = Queue("mine", Exchange("one", "fanout"))(channel)
    queue.declare()
    channel.fanout.subscriptions._queue_arn_cache["mine"] = aws.queues["mine"].attributes[
        "QueueArn"
    ]
    aws.failures["get_queue_attributes"] = [ServiceError("AccessDenied")]
    channel.fanout.subscriptions.subscribe_queue("mine", "one")
    assert "Leaving the SQS policy of queue 'mine' as it is" in caplog.text
    assert not aws.named("set_queue_attributes")


def test_stale_subscriptions_are_ended(aws, connect, caplog):
    caplog.set_level(logging.INFO)
    channel = connect(supports_fanout=True).channel()
    Queue("mine", Exchange("one", "fanout"))(channel).declare()
    (arn,) = aws.topics
    for queue_arn in (
        "arn:aws:sqs:us-east-1:123456789012:mine",
        "arn:aws:sqs:us-east-1:123456789012:gone",
        # Cannot be looked up with our credentials.
        "arn:aws:sqs:us-east-1:999999999999:of-another-account",
    ):
        aws.subscribe(TopicArn=arn, Endpoint=queue_arn)
    channel.remove_stale_sns_subscriptions("one")
    left = [endpoint.rpartition(":")[2] for endpoint in aws.topics[arn].values()]
    assert left == ["mine", "of-another-account"]
    assert "Removed stale subscription" in caplog.text


def test_predefined_exchanges(aws, connect):
    arn = aws.create_topic(Name="known")["TopicArn"]
    aws.calls.clear()
    channel = connect(
        supports_fanout=True, predefined_exchanges={"known": {"arn": arn}, "bare": {}}
    ).channel()
    Queue("q", Exchange("known", "fanout"))(channel).declare()
    assert not aws.named("create_topic")
    for exchange, text in (("unknown", "must be defined"), ("bare", "has no 'arn'")):
        with pytest.raises(UndefinedExchangeException, match=text):
            Queue("q", Exchange(exchange, "fanout"))(channel).declare()


def test_fanout_needs_the_option(aws, channel):
    Queue("q", Exchange("one", "fanout"))(channel).declare()
    Producer(channel).publish(1, exchange=Exchange("one", "fanout"))
    assert not aws.topics
    assert aws.size("q") == 0
