"""Getting messages: on the caller's thread, or for an event loop.

The package's documentation says how a worker's event loop receives.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from math import ceil
from queue import Empty
from time import monotonic
from typing import Any, NamedTuple

from ...asynchronous.aws.sqs.connection import receive_request
from ...asynchronous.crew import Call
from ...log import get_logger
from ...utils.scheduling import FairCycle
from . import _sdk
from ._acknowledging import Acknowledging
from ._settings import SQS_MAX_MESSAGES

__all__ = ("Receiving", "release_messages")

logger = get_logger("kombu.transport.SQS")

#: Seconds that SQS waits at most while other queues have no credit to ask with.
SHORT_WAIT = 1

#: Seconds before asking again after an error of SQS: doubled each time, up to the second.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class _Poll(NamedTuple):
    """A request for messages that runs."""

    wanted: int
    call: Call


def release_messages(client: Any, queue_url: str, messages: list[dict[str, Any]]) -> None:
    """Make received messages visible again; the first failure ends that, and is logged.

    Arguments:
        client: boto3's.
        queue_url: where they came from.
        messages: as boto3 returned them.
    """
    try:
        for message in messages:
            client.change_message_visibility(
                QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )
    except (_sdk.ClientError, _sdk.BotoCoreError, OSError) as exc:
        _log_not_released(queue_url, exc)


def _log_not_released(queue_url: str, exc: BaseException) -> None:
    logger.warning("Failed to release messages of queue %s: %s", queue_url, exc)


class Receiving(Acknowledging):
    """Consumes.

    With an event loop (:attr:`hub`) there is at most one request for each queue that is consumed;
    all its methods but those that settle deliveries belong to the loop's thread.
    """

    #: The event loop; None: messages come in :meth:`drain_events` alone.
    hub: Any = None

    # Made by asynsqs() and fanout when they are first asked for.
    _asynsqs: Any = None
    _fanout: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        # Requests that run, by queue.
        self._polls: dict[str, _Poll] = {}
        # Queues that wait for credit, in that order.
        self._waiting: deque[str] = deque()
        # Queues whose last request brought nothing.
        self._idle: set[str] = set()
        # Seconds before the next request after an error, by queue.
        self._pauses: dict[str, float] = {}
        # Received, but not delivered yet: (queue's URL, messages) by queue.
        self._undelivered: dict[str, tuple[str, deque[dict[str, Any]]]] = {}
        super().__init__(connection, **kwargs)

    # Consumers

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,
        callback: Any,
        consumer_tag: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Start a consumer."""
        if no_ack:
            self._noack_queues.add(queue)
        self._subscribe_queue_to_fanout_exchange_if_required(queue)
        super().basic_consume(queue, no_ack, callback, consumer_tag, *args, **kwargs)
        if self.hub is not None:
            self.hub.call_soon(self._schedule_queue, queue)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop a consumer. Messages that are on their way are given back."""
        queue = self._tag_to_queue.get(consumer_tag)
        if consumer_tag not in self._consumers or queue is None:
            return super().basic_cancel(consumer_tag)
        self._noack_queues.discard(queue)
        super().basic_cancel(consumer_tag)
        if queue not in self._active_queues:
            self._stop_polling(queue)
        return None

    def _stop_polling(self, queue: str) -> None:
        poll = self._polls.pop(queue, None)
        if poll is not None:
            poll.call.cancel()
        url, messages = self._undelivered.pop(queue, ("", deque()))
        if messages:
            self._release_messages(url, queue, list(messages))
        self._idle.discard(queue)
        self._pauses.pop(queue, None)
        self._on_credit()

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take a message, or None; without acknowledgement it is deleted."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack and queue not in self._noack_queues:
            self._delete_message(queue, message.delivery_info["sqs_message"])
        return message

    def basic_qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> None:
        """Limit how many messages are delivered without an acknowledgement; 0: no limit."""
        super().basic_qos(prefetch_size, prefetch_count, apply_global)
        self._on_credit()

    def _release_messages(self, queue: str, qname: str, messages: Any) -> None:
        """Make received messages visible again.

        Arguments:
            queue: its URL.
            qname: its name.
            messages: as boto3 returned them.
        """
        try:
            client = self._new_release_client(self.sqs(queue=self.canonical_queue_name(qname)))
        except (_sdk.ClientError, _sdk.BotoCoreError, OSError) as exc:
            _log_not_released(queue, exc)
        else:
            release_messages(client, queue, messages)

    # On the caller's thread

    def drain_events(
        self, timeout: float | None = None, callback: Any = None, **kwargs: Any
    ) -> Any:
        """Deliver the messages of a queue that has some, at most as many as SQS returns at once.

        Arguments:
            timeout: seconds to wait; SQS counts in whole ones. At most the transport option
                ``wait_time_seconds`` for each queue, which is also the default.
            callback: called as ``callback(message, queue)``.

        Raises:
            queue.Empty: there is none, or none may be delivered.
        """
        if not self._consumers or not self.qos.can_consume():
            raise Empty()
        deadline = None if timeout is None else monotonic() + timeout
        return self.cycle.get(callback, deadline=deadline)

    def _reset_cycle(self) -> None:
        self._cycle = FairCycle(self._serve, self._active_queues, Empty)

    def _serve(self, queue: str, callback: Any, deadline: float | None = None) -> None:
        wait = self.wait_time_seconds
        if deadline is not None:
            # Less than a second would ask only some of SQS's servers, and miss messages.
            wait = min(wait, max(1, ceil(deadline - monotonic())))
        self._get_bulk(queue, callback=callback, wait_time_seconds=wait)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """Take a message of a queue.

        Raises:
            queue.Empty: there is none.
        """
        messages = self._receive_message(queue).get("Messages")
        if not messages:
            raise Empty()
        return self._messages_to_python(messages, queue)[0]

    def _get_bulk(
        self,
        queue: str,
        max_if_unlimited: int = SQS_MAX_MESSAGES,
        callback: Any = None,
        wait_time_seconds: int | None = None,
    ) -> None:
        """Deliver messages of a queue, as many as the prefetch count allows.

        Arguments:
            queue: its name.
            max_if_unlimited: not used; without a prefetch count SQS is asked for as many as it
                returns at once.
            callback: called as ``callback(message, queue)``.
            wait_time_seconds: how long SQS waits; default: the transport option.

        Raises:
            queue.Empty: there is none.
        """
        deliver = callback or self.connection._deliver
        if queue not in self._undelivered:
            count = self._get_message_estimate()
            found = self._receive_message(queue, count, wait_time_seconds).get("Messages")
            if not found:
                raise Empty()
            self._undelivered[queue] = self._new_queue(queue), deque(found)
        self._deliver_batch(queue, deliver)

    def _deliver_batch(self, queue: str, deliver: Any) -> None:
        """Deliver what was received of a queue.

        When delivering one raises, the rest is delivered the next time.
        """
        url, messages = self._undelivered.pop(queue)
        try:
            while messages:
                deliver(self._message_to_python(messages.popleft(), queue, url), queue)
        finally:
            if messages:
                self._undelivered[queue] = url, messages

    def _get_message_estimate(self, max_if_unlimited: int = SQS_MAX_MESSAGES) -> int:
        """Return for how many messages to ask: at least one."""
        free = self._credit()
        return min(max_if_unlimited if free is None else max(free, 1), SQS_MAX_MESSAGES)

    def _credit(self) -> int | None:
        """How many messages may be asked for; None: any number."""
        free = self.qos.can_consume_max_estimate()
        if free is None:
            return None
        reserved = sum(poll.wanted for poll in self._polls.values())
        received = sum(len(messages) for _, messages in self._undelivered.values())
        return free - reserved - received

    def _receive_message(
        self,
        queue: str,
        max_number_of_messages: int = 1,
        wait_time_seconds: int | None = None,
    ) -> dict[str, Any]:
        """Receive messages; returns boto3's response.

        Arguments:
            queue: its name.
            max_number_of_messages: 1 to 10.
            wait_time_seconds: how long SQS waits; default: the transport option.
        """
        attributes = self.get_message_attributes
        request = receive_request(
            self._new_queue(queue),
            max_number_of_messages,
            self.wait_time_seconds if wait_time_seconds is None else wait_time_seconds,
            attributes["MessageSystemAttributeNames"],
            attributes["MessageAttributeNames"],
        )
        return self.sqs(queue=self.canonical_queue_name(queue)).receive_message(**request)

    # For an event loop

    def _on_credit(self) -> None:
        """Ask for queues that wait for credit; any thread may call this."""
        if self._waiting and self.hub is not None:
            self.hub.call_soon(self._serve_waiting)

    def _schedule_queue(self, queue: str) -> None:
        """Ask for messages of a queue, as soon as it is its turn and there is credit for one."""
        if queue in self._undelivered:
            self._on_messages(queue)
            return
        if queue not in self._waiting:
            # First this, then the look at the credit: another thread that settles a delivery
            # does it the other way round.
            self._waiting.append(queue)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting and not self.closed:
            queue = self._waiting[0]
            if queue in self._polls or not self._is_consumed(queue):
                self._waiting.popleft()
                continue
            count, wait = self._share(queue)
            if not count:
                return
            self._waiting.popleft()
            try:
                self._get_bulk_async(queue, count, wait)
            except Exception as exc:
                self._on_error(queue, exc)

    def _is_consumed(self, queue: str) -> bool:
        return queue in self._active_queues and queue in self._transport._callbacks

    def _share(self, queue: str) -> tuple[int, int]:
        """Return for how many messages a queue may ask, and how many seconds SQS may wait.

        A message is asked for only with credit that is then reserved until the answer is there.
        So that no queue waits for another's answer, each keeps one; one that had nothing last
        time asks for no more than one, so that the credit is where the messages are. When there
        is too little for all, SQS may not wait for long, and they take turns.
        """
        free = self._credit()
        if free is None:
            return SQS_MAX_MESSAGES, self.wait_time_seconds
        if free <= 0:
            return 0, 0
        queues = set(self._active_queues)
        others = len(queues.difference(self._polls)) - 1
        wanted = 1 if queue in self._idle and len(queues) > 1 else free - others
        count = min(max(wanted, 1), SQS_MAX_MESSAGES)
        wait = self.wait_time_seconds
        return count, wait if free - count >= others else min(wait, SHORT_WAIT)

    def _get_bulk_async(self, queue: str, count: int, wait_time_seconds: int) -> None:
        """Ask for messages of a queue; :meth:`_on_response` gets them.

        Arguments:
            queue: its name.
            count: how many at most.
            wait_time_seconds: how long SQS waits for the first.
        """
        url = self._new_queue(queue)
        name = self.canonical_queue_name(queue)
        client = self.sqs(queue=name)

        # On a thread, and perhaps after the channel was closed.
        def late(response: dict[str, Any]) -> None:
            messages = response.get("Messages")
            if messages:
                release_messages(self._new_release_client(client), url, messages)

        call = self.asynsqs(queue=name).receive_message(
            url,
            partial(self._on_response, queue, url),
            late,
            number_messages=count,
            wait_time_seconds=wait_time_seconds,
        )
        self._polls[queue] = _Poll(count, call)

    def _on_response(
        self, queue: str, url: str, response: dict[str, Any] | None, error: BaseException | None
    ) -> None:
        """Deliver what SQS has returned, and ask again; on the event loop's thread."""
        self._polls.pop(queue, None)
        self._on_credit()
        if error is not None:
            self._on_error(queue, error)
            return
        self._pauses.pop(queue, None)
        messages = (response or {}).get("Messages") or ()
        (self._idle.discard if messages else self._idle.add)(queue)
        self._undelivered[queue] = url, deque(messages)
        self._on_messages(queue)

    def _on_messages(self, queue: str) -> None:
        url, messages = self._undelivered.pop(queue)
        count = len(messages)
        try:
            self._on_messages_ready(url, queue, {"Messages": messages})
        finally:
            self._loop1(queue, count)

    def _on_error(self, queue: str, error: BaseException) -> None:
        if not isinstance(error, _sdk.ClientError):
            # The network's: the connection has to be made anew. Who goes on without that is
            # served as well.
            self._loop1(queue)
            raise error
        pause = self._pauses.get(queue, FIRST_PAUSE)
        self._pauses[queue] = min(2 * pause, LONGEST_PAUSE)
        logger.error(
            "Could not receive messages of queue %r, trying again in %s seconds: %s",
            queue,
            pause,
            error,
        )
        self.hub.call_later(pause, self._schedule_queue, queue)

    def _on_messages_ready(self, queue: str, qname: str, messages: Any) -> int:
        """Deliver messages; those whose consumer is gone are given back.

        Arguments:
            queue: its URL.
            qname: its name.
            messages: boto3's response.

        Returns:
            How many were delivered.
        """
        rest = deque(messages.get("Messages") or ())
        callbacks = self._transport._callbacks
        count = 0
        try:
            while rest and qname in callbacks:
                message = self._message_to_python(rest.popleft(), qname, queue)
                count += 1
                callbacks[qname](message)
        finally:
            if rest and qname in callbacks:
                # Delivering one has raised: the rest is delivered next.
                self._undelivered[qname] = queue, rest
            elif rest:
                self._release_messages(queue, qname, list(rest))
        return count

    def _loop1(self, queue: str, messages_fetched: int | None = None) -> None:
        """Ask for messages of a queue again.

        Arguments:
            queue: its name.
            messages_fetched: how many came: after none the transport's ``polling_interval``
                passes first.
        """
        interval = self._transport.polling_interval
        if messages_fetched or not interval:
            self.hub.call_soon(self._schedule_queue, queue)
        else:
            self.hub.call_later(interval, self._schedule_queue, queue)

    # Begin and end

    def consume_with(self, hub: Any) -> None:
        """Have the consumers receive through an event loop; None: through none."""
        if hub is self.hub:
            return
        for queue in list(self._polls):
            self._stop_polling(queue)
        self.hub = hub
        if hub is not None:
            for queue in set(self._active_queues):
                hub.call_soon(self._schedule_queue, queue)

    def forget_parent(self) -> None:
        """In a forked child: forget consumers, the requests that run, and the clients' sockets.

        The ledger of deliveries forgets by itself.
        """
        self.hub = self._sqs = self._asynsqs = self._fanout = None
        self._polls.clear()
        self._waiting.clear()
        self._undelivered.clear()
        self._idle.clear()
        self._pauses.clear()
        self._consumers.clear()
        self._tag_to_queue.clear()
        self._active_queues.clear()

    def close(self) -> None:
        """Stop all consumers, give back what is not acknowledged, and close."""
        for queue in [*self._polls, *self._undelivered]:
            self._stop_polling(queue)
        super().close()
