"""Waiting on the hubs of gevent and eventlet, in processes of their own: patching is for good."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from kombu_rs import _greenlets

GEVENT = """
    from gevent import monkey; monkey.patch_all()
    import gevent
    spawn, sleep, Timeout = gevent.spawn, gevent.sleep, gevent.Timeout
    join = lambda g: g.get()
"""
EVENTLET = """
    import warnings; warnings.simplefilter('ignore')
    import eventlet; eventlet.monkey_patch()
    spawn, sleep, Timeout = eventlet.spawn, eventlet.sleep, eventlet.Timeout
    join = lambda g: g.wait()
"""
COMMON = """
    import os, socket, time
    from kombu_rs._greenlets import find_wait
    wait = find_wait()
    assert wait is not None
    left, right = socket.socketpair()
"""


@pytest.fixture(params=["gevent", "eventlet"])
def run(request):
    """Run a script in a patched process."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    setup = GEVENT if request.param == "gevent" else EVENTLET

    def run(script: str) -> None:
        parts = (textwrap.dedent(part) for part in (setup, COMMON, script))
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(parts)], timeout=60, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr

    return run


def test_none_without_patching():
    assert _greenlets.find_wait() is None


def test_others_run_meanwhile(run):
    run("""
        order = []
        def other():
            order.append('other')
            right.send(b'x')
        spawn(other)
        wait([(left.fileno(), 1)], None)
        order.append('woken')
        assert order == ['other', 'woken'], order
        wait([(left.fileno(), 1)], None)   # still readable
        assert left.recv(1) == b'x'
    """)


def test_timeout_and_writable(run):
    run("""
        start = time.monotonic()
        wait([(left.fileno(), 1)], 0.05)
        assert 0.04 <= time.monotonic() - start < 5
        wait([], 0.01)
        wait([(left.fileno(), 1)], 0)
        wait([(left.fileno(), 2)], None)
        wait([(left.fileno(), 3)], None)
    """)


def test_one_of_several(run):
    run("""
        bell = os.eventfd(0) if hasattr(os, 'eventfd') else os.pipe()[0]
        spawn(lambda: right.send(b'x'))
        wait([(bell, 1), (left.fileno(), 1)], 30)
        assert left.recv(1) == b'x'
    """)


def test_greenlets_share_a_descriptor(run):
    run("""
        woken = []
        def waiter(name):
            wait([(left.fileno(), 1)], 30)
            woken.append(name)
        waiters = [spawn(waiter, n) for n in range(3)]
        sleep(0.01)
        right.send(b'x')
        for w in waiters: join(w)
        assert sorted(woken) == [0, 1, 2]
    """)


def test_an_exception_in_the_greenlet_ends_the_wait(run):
    run("""
        try:
            with Timeout(0.02):
                wait([(left.fileno(), 1)], None)
        except Timeout:
            pass
        else:
            raise AssertionError('the timeout was lost')
        spawn(lambda: right.send(b'x'))
        wait([(left.fileno(), 1)], 30)     # and the next one works
        assert left.recv(1) == b'x'
        sleep(0.01)                        # nothing wakes us a second time
    """)


def test_a_reused_descriptor_number(run):
    run("""
        for _ in range(300):
            a, b = socket.socketpair()
            spawn(b.send, b'x')
            start = time.monotonic()
            wait([(a.fileno(), 1)], 30)
            assert time.monotonic() - start < 10
            assert a.recv(1) == b'x'
            a.close(); b.close()
    """)


def test_a_late_event_does_not_wake_the_next_wait(run):
    run("""
        for _ in range(50):
            a, b = socket.socketpair()
            spawn(right.send, b'x'); spawn(b.send, b'y')
            wait([(left.fileno(), 1), (a.fileno(), 1)], 30)
            start = time.monotonic()
            sleep(0.005)
            assert time.monotonic() - start >= 0.004
            left.recv(1); a.recv(1)
            a.close(); b.close()
    """)
