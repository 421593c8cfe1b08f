"""How an event loop receives from SQS, on doubles of boto3's clients."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager

import pytest

from kombu_rs import Connection, Consumer, Exchange, Producer, Queue
from kombu_rs.asynchronous import Hub
from servers.process import wait_until
from servers.sqs import ServiceError, in_place_of_boto3

exchange = Exchange("direct")


@pytest.fixture
def aws(monkeypatch):
    with in_place_of_boto3(monkeypatch) as aws:
        yield aws


class Worker:
    """A connection whose consumers receive through a loop."""

    def __init__(self, names=("a",), prefetch=10, on_message=None, options=None):
        self.hub = Hub()
        self.got = []
        self.threads = set()
        self.most_unacknowledged = 0
        options = {"wait_time_seconds": 5, "polling_interval": 0, **(options or {})}
        self.connection = Connection("sqs://KEY:secret@", transport_options=options)
        self.connection.connect()
        self.connection.transport.register_with_event_loop(self.connection.connection, self.hub)
        self.channel = self.connection.channel()
        self._on_message = on_message or (lambda message: None)
        self.queues = [Queue(name, exchange, name) for name in names]
        self.consumer = Consumer(self.channel, self.queues, on_message=self._deliver)
        self.consumer.qos(prefetch_count=prefetch)
        self.consumer.consume()

    def _deliver(self, message):
        self.got.append(message)
        self.threads.add(threading.get_ident())
        unacknowledged = sum(not each.acknowledged for each in self.got)
        self.most_unacknowledged = max(self.most_unacknowledged, unacknowledged)
        self._on_message(message)

    @property
    def payloads(self):
        return [message.payload for message in self.got]

    def turn_until(self, condition, timeout=10.0):
        """Turns the loop until something is so."""

        def turned():
            self.hub.run_once()
            return condition()

        # Something to do, so that a turn does not wait for long.
        tick = self.hub.call_repeatedly(0.01, lambda: None)
        try:
            return wait_until(turned, timeout)
        finally:
            tick.cancel()

    def turn_for(self, seconds):
        end = time.monotonic() + seconds
        self.turn_until(lambda: time.monotonic() >= end)


@contextmanager
def worker(**kwargs):
    made = Worker(**kwargs)
    try:
        yield made
    finally:
        made.connection.close()
        made.hub.close()


def publish(name, *bodies):
    with Connection("sqs://KEY:secret@") as connection:
        producer = Producer(connection)
        queue = Queue(name, exchange, name)
        for body in bodies:
            producer.publish(body, exchange=exchange, routing_key=name, declare=[queue])


def ack(message):
    message.ack()


def test_delivers_on_the_thread_of_the_loop(aws):
    with worker(on_message=ack) as w:
        w.turn_until(lambda: aws.waiting)
        publish("a", *range(12))
        w.turn_until(lambda: len(w.got) == 12)
        assert w.payloads == list(range(12))
        assert w.threads == {threading.get_ident()}
        assert aws.size("a") == 0


def test_loop_sleeps_until_there_is_a_message(aws):
    with worker(on_message=ack) as w:
        w.turn_until(lambda: aws.waiting)
        turns = []
        w.hub.on_tick.add(lambda: turns.append(1))
        sender = threading.Timer(0.3, publish, args=("a", "x"))
        sender.start()
        while not w.got:
            w.hub.run_once()
        sender.join()
        # It was rung: waiting took a few turns, and no second.
        assert len(turns) < 10


def test_asks_for_no_more_than_the_prefetch_count(aws):
    with worker(names=("a", "b", "c"), prefetch=4) as w:
        for name in "abc":
            publish(name, *range(5))
        w.turn_until(lambda: len(w.got) == 4)
        w.turn_for(0.2)
        assert len(w.got) == 4
        assert sum(aws.size(name) - aws.visible(name) for name in "abc") == 4
        for _ in range(11):
            settled = len(w.got)
            next(message for message in w.got if not message.acknowledged).ack()
            w.turn_until(lambda settled=settled: len(w.got) > settled)
        assert w.most_unacknowledged == 4
        assert sorted(w.payloads) == sorted([*range(5)] * 3)


def test_queues_take_turns_with_a_credit_of_one(aws):
    with worker(names=("a", "b"), prefetch=1, on_message=ack) as w:
        publish("a", *["a"] * 10)
        publish("b", *["b"] * 10)
        w.turn_until(lambda: len(w.got) == 20)
        assert w.most_unacknowledged == 1
        # Neither waited until the other was empty.
        assert {"a", "b"} == set(w.payloads[:10])
        assert all(each["MaxNumberOfMessages"] == 1 for each in aws.named("receive_message"))


def test_empty_queue_leaves_the_credit_to_the_others(aws):
    with worker(names=("busy", "idle"), prefetch=6, on_message=ack) as w:
        w.turn_until(lambda: aws.waiting == 2)
        publish("idle", 1)
        publish("busy", *range(30))
        w.turn_until(lambda: len(w.got) == 31)
        largest = max(each["MaxNumberOfMessages"] for each in aws.named("receive_message"))
        assert largest == 5


def test_acknowledgement_by_another_thread_goes_on(aws):
    with worker(prefetch=1) as w:
        publish("a", 1, 2)
        w.turn_until(lambda: w.got)
        thread = threading.Thread(target=w.got[0].ack)
        thread.start()
        w.turn_until(lambda: len(w.got) == 2)
        thread.join()


def test_larger_prefetch_count_goes_on(aws):
    with worker(prefetch=1) as w:
        publish("a", 1, 2)
        w.turn_until(lambda: w.got)
        w.turn_for(0.1)
        assert len(w.got) == 1
        w.consumer.qos(prefetch_count=2)
        w.turn_until(lambda: len(w.got) == 2)


def test_pause_after_an_empty_answer(aws):
    with worker(options={"wait_time_seconds": 0, "polling_interval": 0.2}) as w:
        w.turn_for(0.5)
        assert 2 <= len(aws.named("receive_message")) <= 4


def test_cancelled_consumer_gives_back_what_comes_after_all(aws):
    with worker() as w:
        w.turn_until(lambda: aws.waiting)
        w.consumer.cancel()
        assert not w.channel._polls
        publish("a", 1)
        # The loop is not turned: the thread does it.
        wait_until(lambda: aws.named("change_message_visibility"))
        assert aws.visible("a") == 1
        assert w.got == []
        w.consumer.consume()
        w.turn_until(lambda: w.got)


def test_cancelling_while_a_message_waits_for_the_loop(aws):
    with worker() as w:
        w.turn_until(lambda: aws.waiting)
        publish("a", 1)
        wait_until(lambda: not aws.waiting and w.hub._ready)
        w.consumer.cancel()
        assert aws.visible("a") == 1
        w.turn_for(0.05)
        assert w.got == []


def test_consumer_that_cancels_itself_gets_no_more(aws):
    with worker(on_message=lambda message: w.consumer.cancel()) as w:
        publish("a", 1, 2, 3)
        w.turn_until(lambda: w.got)
        w.turn_for(0.1)
        assert len(w.got) == 1
        assert aws.visible("a") == 2


def test_close_gives_everything_back(aws):
    with worker(prefetch=5) as w:
        publish("a", *range(7))
        w.turn_until(lambda: len(w.got) == 5)
    assert aws.visible("a") == 7


def test_callback_that_raises_loses_nothing(aws):
    def on_message(message):
        message.ack()
        if message.payload == 1:
            raise RuntimeError("of the user")

    with worker(on_message=on_message) as w:
        publish("a", *range(4))
        with pytest.raises(RuntimeError, match="of the user"):
            w.turn_until(lambda: False)
        w.turn_until(lambda: len(w.got) == 4)
        assert w.payloads == [0, 1, 2, 3]


def test_error_of_the_network_is_raised_on_the_loop(aws):
    with worker(on_message=ack) as w:
        aws.failures["receive_message"] = [ConnectionResetError("cut")]
        with pytest.raises(w.connection.connection_errors):
            w.turn_until(lambda: False)
        # Who goes on all the same is served.
        publish("a", 1)
        w.turn_until(lambda: w.got)


def test_error_of_sqs_is_logged_and_the_queue_asked_again(aws, caplog, monkeypatch):
    monkeypatch.setattr("kombu_rs.transport.SQS._receiving.FIRST_PAUSE", 0.01)
    with worker(on_message=ack) as w:
        aws.failures["receive_message"] = [ServiceError("AccessDenied") for _ in range(3)]
        publish("a", 1)
        w.turn_until(lambda: w.got)
        assert [
            record.args[1] for record in caplog.records if "Could not receive" in record.message
        ] == [0.01, 0.02, 0.04]
        assert w.channel._pauses == {}


def test_poisoned_queue_is_no_end(aws):
    with worker(on_message=ack) as w:
        w.turn_until(lambda: aws.waiting)
        aws.send("a", '{"properties": 5}')
        publish("a", "good")
        w.turn_until(lambda: len(w.got) == 2)
        assert w.payloads == ['{"properties": 5}', "good"]


def test_without_acknowledgement_messages_are_deleted(aws):
    with worker() as w:
        w.consumer.cancel()
        w.consumer.no_ack = True
        w.consumer.consume(no_ack=True)
        publish("a", 1, 2)
        w.turn_until(lambda: len(w.got) == 2)
        wait_until(lambda: aws.size("a") == 0)


def test_delivers_what_was_asked_for_before_there_was_a_loop(aws):
    with Connection("sqs://KEY:secret@", transport_options={"wait_time_seconds": 1}) as connection:
        got = []
        with Consumer(connection, [Queue("a", exchange, "a")], on_message=got.append):
            publish("a", 1)
            hub = Hub()
            connection.transport.register_with_event_loop(connection.connection, hub)
            wait_until(lambda: hub.run_once() or got)
            connection.transport.unregister_from_event_loop(connection.connection, hub)
            got[0].ack()
            publish("a", 2)
            connection.drain_events(timeout=1)
            assert [message.payload for message in got] == [1, 2]
        hub.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_has_nothing_of_its_parents_requests(aws):
    with worker(on_message=ack) as w:
        w.turn_until(lambda: aws.waiting)
        client = w.channel.sqs()
        pid = os.fork()
        if pid == 0:
            # Not through pytest's exits.
            fine = (
                not w.channel._polls
                and w.channel.hub is None
                and threading.active_count() == 1
                and w.channel.sqs() is not client
            )
            w.consumer.cancel()
            os._exit(0 if fine else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        publish("a", 1)
        w.turn_until(lambda: w.got)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_that_closes_gives_back_nothing_of_its_parent(aws):
    with worker() as w:
        publish("a", 1, 2)
        w.turn_until(lambda: len(w.got) == 2)
        w.turn_until(lambda: aws.waiting)
        pid = os.fork()
        if pid == 0:
            # The doubles are in memory: what the child asks for is seen in the child alone.
            try:
                before = len(aws.calls)
                fine = not w.channel._consumers and not w.connection.transport._callbacks
                w.got[0].ack()
                w.connection.close()
                settling = {"change_message_visibility", "delete_message"}
                fine = fine and not settling & {name for name, _ in aws.calls[before:]}
                os._exit(0 if fine else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert w.channel._consumers
        for message in w.got:
            message.ack()
        assert aws.size("a") == 0
