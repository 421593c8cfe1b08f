"""Pools."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from kombu_rs.exceptions import LimitExceeded
from kombu_rs.resource import Resource
from kombu_rs.utils.functional import lazy


class Thing:
    closed = collected = False

    def close(self):
        self.closed = True


class Pool(Resource):
    def setup(self):
        while self.limit and self._resource.qsize() < self.limit:
            self._resource.put_nowait(self.new())

    def new(self):
        return lazy(Thing)

    def prepare(self, resource):
        return resource() if isinstance(resource, lazy) else resource

    def collect_resource(self, resource):
        if not isinstance(resource, lazy):
            resource.collected = True


def test_limit_and_release():
    pool = Pool(2)
    first, _ = pool.acquire(), pool.acquire()
    with pytest.raises(LimitExceeded):
        pool.acquire()
    first.release()
    assert pool.acquire() is first  # used last, handed out first


def test_acquire_waits_for_a_release():
    pool = Pool(1)
    thing = pool.acquire()
    with pytest.raises(LimitExceeded):
        pool.acquire(block=True, timeout=0.01)
    threading.Timer(0.05, thing.release).start()
    assert pool.acquire(block=True, timeout=10) is thing


def test_without_limit_things_are_closed():
    pool = Pool(None)
    things = [pool.acquire() for _ in range(3)]
    assert len(set(things)) == 3
    things[0].release()
    assert things[0].closed


def test_broken_thing_makes_room():
    pool = Pool(1)
    thing = pool.acquire()
    pool.replace(thing)
    assert thing.closed
    assert pool.acquire() is not thing


def test_failed_prepare_gives_back_what_it_took():
    class Failing(Pool):
        def prepare(self, resource):
            raise OSError("down")

    pool = Failing(1)
    for _ in range(3):
        with pytest.raises(OSError, match="down"):
            pool.acquire()
    assert pool._resource.qsize() == 1


def test_resize():
    pool = Pool(3)
    things = [pool.acquire(), pool.acquire()]
    with pytest.raises(RuntimeError, match="was=3 now=1"):
        pool.resize(1)
    pool.resize(2, ignore_errors=True)
    with pytest.raises(LimitExceeded):
        pool.acquire()
    pool.resize(3)
    assert pool._resource.qsize() == 1
    pool.resize(1, force=True)
    assert all(thing.collected for thing in things)
    pool.acquire()
    with pytest.raises(LimitExceeded):
        pool.acquire()
    with pytest.raises(TypeError, match="not bool"):
        pool.limit = True


def test_closed_pool():
    pool = Pool(2)
    used, idle = pool.acquire(), pool.acquire()
    idle.release()
    pool.force_close_all()
    assert used.collected
    assert idle.collected
    with pytest.raises(RuntimeError, match="closed"):
        pool.acquire()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_of_a_fork_goes_on_although_a_thread_held_the_pool():
    pool = Pool(2, close_after_fork=True)
    used = pool.acquire()
    held, done = threading.Event(), threading.Event()

    def hold():
        with pool._resource.mutex:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(10)
            if used.collected and pool.acquire() is not used:
                pool.acquire()
                status = 0
        finally:
            os._exit(status)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    assert not used.collected


def test_setup_is_the_subclasses_duty():
    with pytest.raises(NotImplementedError):
        Resource()
