"""The event loop, on real files and threads."""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from kombu_rs.asynchronous import Hub, get_event_loop, set_event_loop
from kombu_rs.asynchronous.hub import Stop
from kombu_rs.asynchronous.promise import promise
from kombu_rs.utils import eventio

DEADLINE = 10


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.setblocking(False)
    yield SimpleNamespace(near=a, far=b)
    a.close()
    b.close()


class SpyPoller:
    """Notes the timeouts that the loop chooses."""

    def __init__(self, poller):
        self.poller, self.timeouts = poller, []

    def __getattr__(self, name):
        return getattr(self.poller, name)

    def poll(self, timeout):
        self.timeouts.append(timeout)
        return self.poller.poll(0)


def spy_on(hub):
    hub.poller = SpyPoller(hub.poller)
    return hub.poller.timeouts


def test_readers_and_writers_share_a_descriptor(hub, pair):
    seen = []
    hub.add_reader(pair.near, lambda: seen.append(pair.near.recv(10)))
    hub.add_writer(pair.near, lambda: seen.append("writable"))
    pair.far.send(b"x")
    hub.run_once()
    assert sorted(map(str, seen)) == ["b'x'", "writable"]
    hub.remove_writer(pair.near)
    seen.clear()
    pair.far.send(b"y")
    hub.run_once()
    assert seen == [b"y"]
    hub.remove_reader(pair.near)
    assert not hub.readers
    assert not hub.writers


def test_error_reaches_whoever_watches(hub):
    r, w = os.pipe()
    seen = []
    os.close(r)
    hub.add_writer(w, seen.append, "error")
    hub.run_once()
    assert seen == ["error"]
    hub.remove(w)
    os.close(w)


def test_event_without_a_callback_is_removed(hub, pair):
    hub.add_reader(pair.near, lambda: None)
    hub.add_reader(pair.far, lambda: None)
    del hub.readers[pair.near.fileno()]
    pair.far.send(b"x")
    hub.run_once()
    assert not hub.poller.poll(0)


def test_removing_a_writer_during_a_turn_leaves_its_reader(hub, pair):
    """The event of the writer is at hand already, and belongs to nobody any more."""
    seen = []
    other, peer = socket.socketpair()
    hub.add_reader(pair.near, lambda: (hub.remove_writer(other), pair.near.recv(1)))
    hub.add_writer(other, seen.append, "removed before")
    hub.add_reader(other, lambda: seen.append(other.recv(1)))
    hub._handle_events([(pair.near.fileno(), hub.READ)] if pair.far.send(b"x") else [], type(None))
    hub._handle_events([(other.fileno(), hub.WRITE)], type(None))
    peer.send(b"y")
    hub.run_once()
    assert seen == [b"y"]
    hub.remove(other)
    other.close()
    peer.close()


def test_generators_are_resumed_until_they_end(hub, pair):
    seen = []

    def reader():
        for _ in range(2):
            seen.append(pair.near.recv(1))
            yield

    hub.add_reader(pair.near, reader())
    pair.far.send(b"abc")
    for _ in range(3):
        hub.run_once()
    assert seen == [b"a", b"b"]
    assert not hub.readers  # a finished one would be called for ever


def test_consolidated_descriptors_come_together(hub, pair):
    calls = []
    hub.consolidate_callback = calls.append
    for sock in (pair.near, pair.far):
        hub.add(sock, None, hub.WRITE | hub.ERR, consolidate=True)
    hub.run_once()
    assert [sorted(call) for call in calls] == [sorted([pair.near.fileno(), pair.far.fileno()])]


def test_callbacks_that_wait_are_not_kept_waiting(hub, pair):
    """A turn does not wait for files while there is something to do."""
    timeouts = spy_on(hub)
    hub.add_reader(pair.near, lambda: None)
    hub.call_soon(hub.call_soon, lambda: None)
    next(hub.loop)
    assert timeouts == [0]
    next(hub.loop)
    assert timeouts[1] > 0


def test_more_timers_than_one_turn_fires_are_not_kept_waiting(hub, pair):
    timeouts = spy_on(hub)
    hub.add_reader(pair.near, lambda: None)
    fired = []
    for number in range(25):
        hub.call_later(-1, fired.append, number)
    for _ in range(3):
        next(hub.loop)
    assert len(fired) == 25
    assert timeouts[:2] == [0, 0]
    assert timeouts[2] > 0


def test_waits_for_the_next_timer(hub, pair):
    timeouts = spy_on(hub)
    hub.add_reader(pair.near, lambda: None)
    hub.call_later(0.7, lambda: None)
    next(hub.loop)
    assert 0.5 < timeouts[0] <= 0.7


def test_call_soon_from_another_thread_wakes_the_loop(hub, pair):
    hub.add_reader(pair.near, lambda: None)  # so that it waits for long
    seen = []
    next_turn = threading.Event()
    hub.call_soon(next_turn.set)

    def other():
        assert next_turn.wait(DEADLINE)
        hub.call_soon(lambda: (seen.append("woken"), hub.stop()))

    thread = threading.Thread(target=other)
    thread.start()
    started = time.monotonic()
    hub.call_later(DEADLINE, hub.stop)
    hub.run_forever()
    thread.join()
    assert seen == ["woken"]
    assert time.monotonic() - started < 0.9  # the loop polls for a second otherwise


def test_call_soon_wakes_a_loop_that_watches_nothing(hub):
    next(hub.loop)
    thread = threading.Timer(0.01, hub.call_soon, [lambda: None])
    thread.start()
    started = time.monotonic()
    assert hub._waker.wait(DEADLINE)
    assert time.monotonic() - started < DEADLINE / 2
    thread.join()


def test_wake_ups_from_many_threads_lose_nothing(hub):
    seen = []
    threads = [
        threading.Thread(target=lambda: [hub.call_soon(seen.append, 1) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + DEADLINE
    while len(seen) < 2000 and time.monotonic() < deadline:
        hub.run_once()
    for thread in threads:
        thread.join()
    assert len(seen) == 2000


def test_callbacks_behind_one_that_fails_are_kept(hub):
    seen = []

    def fail():
        raise ValueError("first")

    hub.call_soon(fail)
    for number in range(5):
        hub.call_soon(seen.append, number)
    with pytest.raises(ValueError, match="first"):
        next(hub.create_loop())
    next(hub.create_loop())
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_timer_errors(hub, caplog):
    def fail(exc):
        raise exc

    hub.call_later(-1, fail, ValueError("logged"))
    hub.run_once()
    assert "logged" in caplog.text
    hub.propagate_errors = (KeyError,)
    hub.call_later(-1, fail, KeyError("raised"))
    with pytest.raises(KeyError):
        hub.run_once()


def test_close_runs_what_waits_and_tells(hub):
    set_event_loop(hub)
    seen = []
    hub.on_close.add(seen.append)
    hub.call_soon(seen.append, "waited")
    hub.stop()
    hub.close()
    assert sorted(map(str, seen)) == sorted([str(hub), "waited"])
    assert get_event_loop() is None


def test_hub_can_be_used_after_close(hub, pair):
    hub.run_once()
    hub.close()
    seen = []
    hub.add_reader(pair.near, lambda: seen.append(pair.near.recv(1)))
    pair.far.send(b"x")
    hub.run_once()
    assert seen == [b"x"]


def test_reset_forgets_files_and_keeps_timers(hub, pair):
    seen = []
    hub.add_reader(pair.near, lambda: None)
    hub.call_later(-1, seen.append, 1)
    hub.reset()
    assert not hub.readers
    hub.run_once()
    assert seen == [1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_does_not_wake_its_parent(hub):
    next(hub.loop)
    parent_waker = hub._waker
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            hub.reset()
            next(hub.loop)
            thread = threading.Thread(target=hub.call_soon, args=(status.__class__,))
            thread.start()
            thread.join()
            if hub._waker is not parent_waker and hub.poller.poll(DEADLINE):
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert not select.select([parent_waker], [], [], 0)[0]


def test_stop_is_not_caught_by_except_exception():
    assert not issubclass(Stop, Exception)


def test_callbacks_are_freed(hub):
    class Owner:
        def call(self):
            pass

    owner = Owner()
    gone = weakref.ref(owner)
    hub.call_soon(owner.call)
    hub.call_later(-1, owner.call)
    hub.run_once()
    hub.run_once()
    del owner
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("poller", ["_epoll", "_poll", "_select", "_kqueue"])
def test_every_poller_reports_the_same(poller, pair):
    try:
        poller = getattr(eventio, poller)()
    except TypeError:
        pytest.skip("not on this system")
    fd = pair.near.fileno()
    poller.register(fd, eventio.READ | eventio.ERR)
    assert not poller.poll(0)
    pair.far.send(b"x")
    assert poller.poll(1) == [(fd, eventio.READ)]
    poller.register(fd, eventio.WRITE)
    assert poller.poll(1) == [(fd, eventio.WRITE)]
    poller.register(fd, eventio.READ | eventio.WRITE)
    assert poller.poll(1) == [(fd, eventio.READ | eventio.WRITE)]
    poller.unregister(fd)
    assert not poller.poll(0)
    poller.close()


class TestPromise:
    def test_calls_with_all_arguments(self):
        p = promise(lambda *args, **kwargs: (args, kwargs), (1,), {"a": 2})
        assert p(3, b=4) == ((1, 3), {"a": 2, "b": 4})
        assert p.ready

    def test_chain(self):
        seen = []
        p = promise(lambda: 42)
        p.then(seen.append)
        p()
        p.then(seen.append)
        assert seen == [42, 42]

    def test_error_goes_to_the_listener_or_up(self):
        seen = []
        p = promise(int, ("x",))
        with pytest.raises(ValueError, match="invalid literal"):
            p()
        p = promise(int, ("x",))
        p.then(seen.append, seen.append)
        p()
        assert isinstance(seen[0], ValueError)

    def test_cancelled(self):
        seen = []
        p = promise(seen.append, (1,))
        p.cancel()
        p()
        assert seen == []
