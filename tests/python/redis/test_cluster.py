"""``rediscluster://``, on real clusters: slots that move and masters that die under use."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress

import pytest

from kombu_rs import Connection, Consumer, Exchange, Queue, launcher
from kombu_rs.exceptions import BrokerConnectionError, OperationalError
from kombu_rs.utils.uuid import uuid
from servers.process import wait_until
from servers.redis_cluster import RedisCluster


@pytest.fixture
def tag() -> str:
    """A hash tag that no other test has."""
    return uuid()


@pytest.fixture
def key(tag) -> str:
    """A key of its slot."""
    return f"{{{tag}}}"


@pytest.fixture
def connect(redis_cluster, tag):
    """Opens connections to the shared cluster; they are closed after the test."""
    opened = []

    def connect(**options):
        options = {"hash_tag": tag, **options}
        opened.append(Connection(redis_cluster.url(), transport_options=options))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.release()


def other_master(cluster, key):
    master = cluster.master_of(key)
    return next(node for node in cluster.nodes if node is not master)


def take(connection, queue, count, **options):
    """So many messages, acknowledged."""
    got = []

    def received(body, message):
        got.append(body)
        message.ack()

    with connection.Consumer(Queue(queue), callbacks=[received], **options):
        wait_until(
            lambda: drain(connection) and len(got) >= count, 30.0, lambda: f"more than {got}"
        )
    return got


def drain(connection, timeout=0.2):
    with suppress(TimeoutError):
        connection.drain_events(timeout=timeout)
    return True


# -- everyday life


def test_messages_have_their_priorities_and_claims(redis_cluster, connect, key):
    connection = connect()
    producer = connection.Producer()
    for body, priority in [("low", 9), ("high", 0), ("middle", 3)]:
        producer.publish(body, routing_key="q", priority=priority)
    master = redis_cluster.master_of(key)
    assert master.command("LLEN", f"{key}q") == 1
    got = []
    channel = connection.channel()
    with Consumer(channel, Queue("q"), callbacks=[lambda body, message: got.append(message)]):
        wait_until(lambda: drain(connection) and len(got) == 3)
        assert [message.payload for message in got] == ["high", "middle", "low"]
        assert master.command("HLEN", f"{key}unacked") == 3
        got[0].ack()
        got[1].reject()
        got[2].requeue()
        wait_until(lambda: drain(connection) and len(got) == 4)
        assert (got[3].payload, got[3].delivery_info["redelivered"]) == ("low", True)
        got[3].ack()
    wait_until(lambda: master.command("EXISTS", f"{key}unacked", f"{key}unacked_index") == 0)


def test_dead_letters_can_be_replayed(redis_cluster, connect, tag, capsys):
    connection = connect(delivery_limit=1)
    channel = connection.channel()
    queue, dead = Queue("q")(channel), Queue("q.dead")(channel)
    connection.Producer().publish("x", routing_key="q")
    queue.get().requeue()
    assert queue.get() is None
    letter = dead.get()
    assert letter.payload == "x"
    assert letter.headers["x-death"][0]["queue"] == "q"
    letter.requeue()
    command = ["replay", redis_cluster.url(), "q.dead", "--option", f"hash_tag={tag}"]
    assert launcher.main(command) == 0
    assert capsys.readouterr().out == "moved 1 dead letters out of 'q.dead'\n"
    message = queue.get()
    assert message.payload == "x"
    message.ack()


@pytest.mark.parametrize("sharded", [False, True], ids=["classic", "sharded"])
def test_fanout_reaches_all_wherever_the_slot_goes(redis_cluster, connect, key, sharded):
    options = {"sharded_fanout": True, "fanout_patterns": False} if sharded else {}
    exchange, heard = Exchange("fx", "fanout"), Counter()
    consumers = [connect(**options), connect(**options)]
    for number, connection in enumerate(consumers):
        queue = Queue(f"fq{number}", exchange, auto_delete=True)
        connection.Consumer(queue, callbacks=[lambda body, _: heard.update([body])]).consume()
    producer = connect(**options).Producer(exchange=exchange)

    def say(word):
        # Who listens is told of a move a moment later; pub/sub keeps nothing until then.
        producer.publish(word, declare=[exchange])
        return [drain(connection, 0.05) for connection in consumers] and heard[word] >= 2

    wait_until(lambda: say("before"), 20.0)
    redis_cluster.move(key, other_master(redis_cluster, key))
    wait_until(lambda: say("after"), 20.0)


def test_any_node_and_any_alternative_will_do(redis_cluster, tag, key):
    for number in range(3):
        url = redis_cluster.url(number)
        with Connection(url, transport_options={"hash_tag": tag}) as connection:
            connection.Producer().publish(number, routing_key="q")
    dead = "rediscluster://127.0.0.1:1"
    with Connection(f"{dead};{url}", transport_options={"hash_tag": key}) as connection:
        assert take(connection, "q", 3) == [0, 1, 2]
    options = {"global_keyprefix": f"shop:{key}:", "startup_nodes": [["127.0.0.1", 1]]}
    options["startup_nodes"].append(["127.0.0.1", redis_cluster.nodes[1].port])
    with Connection(dead, transport_options=options) as connection:
        connection.Producer().publish("x", routing_key="q")
    assert redis_cluster.command("LLEN", f"shop:{key}:q", key=key) == 1


def test_bindings_that_nobody_renews_are_swept(connect):
    short = connect(min_binding_ttl=50)
    exchange = Exchange("ex")
    channel = short.default_channel
    Queue("q", exchange, routing_key="k", expires=0.05, durable=False).bind(channel).declare()
    assert len(channel.get_table("ex")) == 1
    other = connect().default_channel
    wait_until(lambda: other.sweep_bindings() or not other.get_table("ex"))
    assert channel.get_table("ex") == []


def test_what_cannot_be_is_named(redis_cluster, redis_server, connect, tag):
    with pytest.raises(ValueError, match="database 0 only, not 1"):
        Connection(redis_cluster.url().removesuffix("0") + "1").connect()
    with pytest.raises(NotImplementedError, match=r"not part of a cluster.* redis://"):
        Connection(redis_server.url().replace("redis", "rediscluster")).connect()
    with pytest.raises(ValueError, match=r"hash_tag.*must be a text like"):
        connect(hash_tag="a{b}").connect()
    with pytest.raises(ValueError, match="needs fanout_patterns=False"):
        connect(sharded_fanout=True).connect()
    with pytest.raises(ValueError, match=r"hash_tag.*is for rediscluster://"):
        Connection(redis_server.url(), transport_options={"hash_tag": tag}).connect()
    with pytest.raises(NotImplementedError, match=r"redis\.RedisCluster"):
        assert connect().default_channel.client
    plain = redis_cluster.url().replace("rediscluster", "redis")
    with Connection(plain) as connection:
        queues = (f"{tag}{number}" for number in range(100))
        elsewhere = next(q for q in queues if redis_cluster.master_of(q).port != connection.port)
        with pytest.raises(connection.channel_errors, match=r"rediscluster://.*MOVED"):
            connection.Producer().publish(1, routing_key=elsewhere)
    with pytest.raises(AttributeError, match="hash_tag is a setting"):
        connect().default_channel.hash_tag = "other"


def test_nodes_may_have_names_or_none(new_redis_cluster, authority, tag):
    names = {
        "cluster-announce-hostname": "localhost",
        "cluster-preferred-endpoint-type": "hostname",
    }
    cluster = new_redis_cluster(password="s3cret", tls=authority, config=names)
    options = {"hash_tag": tag}
    with Connection(cluster.url(), transport_options=options) as connection:
        connection.Producer().publish("by name", routing_key="q")
        assert take(connection, "q", 1) == ["by name"]
    for node in cluster.nodes:
        node.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
    for number in range(3):
        with Connection(cluster.url(number), transport_options=options) as connection:
            connection.Producer().publish(number, routing_key="q")
    assert cluster.command("LLEN", f"{{{tag}}}q", key=f"{{{tag}}}") == 3
    with pytest.raises(OperationalError, match="refused the log-in") as caught:
        Connection(cluster.url().replace("s3cret", "wr0ng")).connect()
    assert "wr0ng" not in str(caught.value)


# -- slots that move


def test_nothing_is_lost_while_a_slot_is_moved_step_by_step(redis_cluster, connect, key):
    target = other_master(redis_cluster, key)
    publishing, consuming = connect().Producer(), connect(visibility_timeout=3600)
    for number in range(4):
        publishing.publish(number, routing_key="q")
    held = []
    consumer = consuming.Consumer(Queue("q"), callbacks=[lambda _, message: held.append(message)])
    consumer.qos(prefetch_count=2)
    with consumer:
        wait_until(lambda: drain(consuming) and len(held) == 2)
        redis_cluster.begin_move(key, target)
        # ASK: what is not there yet is made at the target.
        publishing.publish("new", routing_key="other")
        with target.client() as asking:
            asking.command("ASKING")
            assert asking.command("LLEN", f"{key}other") == 1
        # ASK for one of two commands, TRYAGAIN for scripts over both.
        redis_cluster.move_keys(key, target, f"{key}unacked")
        held[0].ack()
        consumer.qos(prefetch_count=10)
        with pytest.raises(TimeoutError):
            consuming.drain_events(timeout=0.5)
        publishing.publish(4, routing_key="q")
        redis_cluster.move_keys(key, target)
        held[1].ack()
        redis_cluster.end_move(key, target)
        publishing.publish(5, routing_key="q")
        wait_until(lambda: drain(consuming) and len(held) == 6, 30.0)
        for message in held[2:]:
            message.ack()
    assert [message.payload for message in held] == list(range(6))
    assert not any(message.delivery_info.get("redelivered") for message in held)
    wait_until(lambda: target.command("EXISTS", f"{key}unacked", f"{key}unacked_index") == 0)
    assert take(consuming, "other", 1) == ["new"]


def test_an_idle_consumer_finds_where_its_queue_went(redis_cluster, connect, key):
    consuming, got = connect(), []
    with consuming.Consumer(Queue("q"), callbacks=[lambda body, _: got.append(body)], no_ack=True):
        drain(consuming)
        redis_cluster.move(key, other_master(redis_cluster, key))
        connect().Producer().publish("found", routing_key="q")
        consuming.drain_events(timeout=20)
    assert got == ["found"]


def test_programs_do_not_notice_that_slots_move(redis_cluster, connect, key):
    """Publishers and consumers, none of whom retries anything, while the slot goes round."""
    errors, published, got = [], [], Counter()
    stop = threading.Event()

    def publish(number):
        producer = connect().Producer()
        while not stop.is_set():
            body = f"{number}-{len(published)}"
            producer.publish(body, routing_key="q", priority=len(published) % 10)
            published.append(body)

    def consume():
        connection = connect()

        def received(body, message):
            got[body] += 1
            message.ack()

        with connection.Consumer(Queue("q"), callbacks=[received], prefetch_count=10):
            while not (stop.is_set() and len(got) >= len(published)):
                drain(connection)
        connection.release()

    def guarded(work, *args):
        try:
            work(*args)
        except BaseException as error:
            errors.append(error)
            raise

    publishers = [threading.Thread(target=guarded, args=(publish, n)) for n in range(2)]
    consumers = [threading.Thread(target=guarded, args=(consume,)) for _ in range(2)]
    for thread in publishers + consumers:
        thread.start()
    try:
        for _ in range(6):
            seen = len(got)
            wait_until(lambda seen=seen: errors or len(got) > seen + 20, 30.0, "consuming to go on")
            redis_cluster.move(key, other_master(redis_cluster, key))
    finally:
        stop.set()
        for thread in publishers + consumers:
            thread.join(60)
    assert not errors
    assert not any(thread.is_alive() for thread in publishers + consumers)
    assert set(got) == set(published)
    assert max(got.values()) == 1
    keys = [f"{key}q", f"{key}unacked", f"{key}unacked_index"]
    wait_until(lambda: redis_cluster.command("EXISTS", *keys, key=key) == 0)


# -- masters that die


def test_a_master_without_enough_replicas_may_have_some_later(new_redis):
    server = new_redis(config={"min-replicas-to-write": "1"})
    with Connection(server.url()) as connection:
        producer = connection.Producer()
        with pytest.raises(connection.connection_errors, match="NOREPLICAS"):
            producer.publish("x", routing_key="q")
        server.command("CONFIG", "SET", "min-replicas-to-write", 0)
        producer.publish("x", routing_key="q", retry=True)
        assert take(connection, "q", 1) == ["x"]


def test_a_replica_takes_over(new_redis_cluster, tag, key):
    """Publishes that a replica has are delivered, claims stay, and everybody goes on by himself."""
    cluster: RedisCluster = new_redis_cluster(replicas=1)
    options = {"hash_tag": tag, "socket_timeout": 5}
    master = cluster.master_of(key)
    url = cluster.url(cluster.nodes.index(master))  # known by the one that dies alone
    replica = cluster.replica_of(master)
    certain, published, got, held, troubles = [], [], Counter(), [], []
    stop = threading.Event()

    def publish():
        with Connection(url, transport_options=options) as connection:
            producer = connection.Producer()
            while not stop.is_set():
                body = f"{len(published)}"
                producer.publish(
                    body,
                    routing_key="q",
                    retry=True,
                    retry_policy={
                        "max_retries": None,
                        "interval_start": 0.1,
                        "interval_step": 0,
                        "errback": lambda error, interval: troubles.append(error),
                    },
                )
                published.append(body)
                time.sleep(0.001)  # a rate that the consumer keeps up with

    def consume():
        with Connection(url, transport_options=options) as connection:

            def received(body, message):
                got[body] += 1
                message.ack()

            consumer = connection.Consumer(Queue("q"), callbacks=[received])
            while not stop.is_set():
                try:
                    connection.ensure_connection(interval_start=0.1, interval_step=0)
                    consumer.revive(connection.channel())
                    consumer.consume()
                    while not stop.is_set():
                        drain(connection)
                except connection.connection_errors as error:
                    troubles.append(error)

    with Connection(url, transport_options=options) as connection:
        connection.Producer().publish("held", routing_key="held")
        consumer = connection.Consumer(
            Queue("held"), callbacks=[lambda _, message: held.append(message)]
        )
        consumer.consume()
        wait_until(lambda: drain(connection) and held)
        threads = [threading.Thread(target=publish), threading.Thread(target=consume)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(got) > 50, 30.0, "a start")
            certain.extend(published)
            with master.client() as client:
                client.command("SET", f"{key}barrier", 1)
                assert client.command("WAIT", 1, 10_000) == 1
            master.kill()
            wait_until(lambda: cluster.master_of(key) is replica, 30.0, "the failover")
            taken_over = len(published)
            seen = len(got)
            going_on = lambda: f"all to go on after {troubles[-3:]}"  # noqa: E731
            wait_until(lambda: len(published) > taken_over + 20, 30.0, going_on)
            wait_until(lambda: len(got) > seen + 20, 30.0, going_on)
            wait_until(lambda: not set(certain) - set(got), 30.0, going_on)
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        # The claim belongs to the connection, not to the link that broke.
        with suppress(BrokerConnectionError, TimeoutError):
            connection.drain_events(timeout=1)
        held[0].ack()
        claim = held[0].delivery_tag
        wait_until(
            lambda: not replica.command("HEXISTS", f"{key}unacked", claim), 10.0, "its settlement"
        )
        assert replica.command("LLEN", f"{key}held") == 0
