"""Other Python threads run while a call waits for the broker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from kombu_rs import Connection, Consumer, Producer, Queue
from kombu_rs.exceptions import OperationalError
from servers.process import wait_until

from .conftest import is_asleep


class Call(threading.Thread):
    """Makes a blocking call on a thread of its own."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__()
        self._function = function
        self.raised: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self.raised = error

    def wait_asleep(self) -> None:
        """Wait until the call sleeps in the kernel."""
        wait_until(lambda: self.native_id is not None, 10, "the thread to start")
        assert self.native_id is not None
        wait_until(is_asleep(os.getpid(), self.native_id), 30, "the call to fall asleep")

    def result(self, timeout: float = 30) -> None:
        """Wait for the end of the call; raise what it raised."""
        self.join(timeout)
        assert not self.is_alive(), "the call still waits"
        if self.raised is not None:
            raise self.raised


def goes_on(ticking: Callable[[], int]) -> bool:
    """Whether the other thread gets somewhere now."""
    before = ticking()
    wait_until(lambda: ticking() > before + 1000, 20, "the other thread to tick")
    return True


def test_while_draining(broker: str, ticking: Callable[[], int]) -> None:
    got: list[object] = []
    with Connection(broker) as connection, Connection(broker) as other:
        queue = Queue("gil")
        consumer = Consumer(
            connection, [queue], callbacks=[lambda body, message: got.append(body)], no_ack=True
        )
        with consumer:
            call = Call(lambda: connection.drain_events(timeout=60))
            call.wait_asleep()
            assert goes_on(ticking)
            Producer(other).publish("woken", routing_key="gil")
            call.result()
    assert got == ["woken"]


def test_while_a_reply_is_awaited(redis_server, new_proxy, ticking) -> None:
    proxy = new_proxy(redis_server.port)
    with Connection(f"redis://127.0.0.1:{proxy.port}/0") as connection:
        channel = connection.default_channel
        queue = Queue("gil-reply")(channel)
        queue.declare()
        proxy.hold("down")
        call = Call(lambda: Producer(channel).publish("late", routing_key="gil-reply"))
        call.wait_asleep()
        assert goes_on(ticking)
        proxy.heal()
        call.result()
        message = queue.get(no_ack=True)
        assert message is not None
        assert message.payload == "late"


def test_while_connecting(redis_server, new_proxy, ticking) -> None:
    proxy = new_proxy(redis_server.port)
    proxy.hold("down")
    connection = Connection(f"redis://127.0.0.1:{proxy.port}/0", connect_timeout=30)
    call = Call(connection.connect)
    call.wait_asleep()
    assert goes_on(ticking)
    proxy.heal()
    call.result()
    assert connection.connected
    connection.release()


def test_while_connecting_in_vain(redis_server, new_proxy, ticking) -> None:
    proxy = new_proxy(redis_server.port)
    proxy.hold("down")
    connection = Connection(f"redis://127.0.0.1:{proxy.port}/0", connect_timeout=1)
    call = Call(connection.connect)
    assert goes_on(ticking)
    call.join(20)
    assert isinstance(call.raised, OperationalError)
