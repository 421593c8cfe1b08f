"""Calls on threads, whose results an event loop gets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from kombu_rs.asynchronous import Hub
from kombu_rs.asynchronous.crew import Call, Crew, get_crew
from servers.process import wait_until


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def crew():
    return Crew(limit=2, idle_timeout=0.05)


def turn_until(hub, condition):
    hub.call_repeatedly(0.01, lambda: None)
    return wait_until(lambda: hub.run_once() or condition())


def test_result_and_error_come_on_the_loop(hub, crew):
    outcomes = []

    def done(result, error):
        outcomes.append((result, type(error), threading.get_ident()))

    crew.submit(Call(hub, lambda: threading.get_ident(), done))
    crew.submit(Call(hub, lambda: 1 / 0, done))
    turn_until(hub, lambda: len(outcomes) == 2)
    here = threading.get_ident()
    results = {error: result for result, error, _ in outcomes}
    assert results[ZeroDivisionError] is None
    assert results[type(None)] != here
    assert {thread for _, _, thread in outcomes} == {here}


def test_limit(hub, crew):
    gate = threading.Event()
    running = []
    done = []

    def call():
        running.append(threading.get_ident())
        gate.wait()

    for _ in range(5):
        crew.submit(Call(hub, call, lambda *outcome: done.append(outcome)))
    wait_until(lambda: len(running) == 2)
    time.sleep(0.05)
    assert len(running) == 2
    gate.set()
    turn_until(hub, lambda: len(done) == 5)
    assert len(set(running)) == 2


def test_idle_threads_end_and_others_begin(hub, crew):
    done = []
    for _ in range(2):
        crew.submit(Call(hub, lambda: 1, lambda *outcome: done.append(outcome)))
        turn_until(hub, lambda: done)
        wait_until(lambda: crew._threads == 0)
        done.clear()


@pytest.mark.parametrize("arrived", [True, False])
def test_cancelled(hub, crew, arrived):
    begun, gate = threading.Event(), threading.Event()
    late = []
    call = crew.submit(
        Call(hub, lambda: begun.set() or (gate.wait() and "x"), pytest.fail, late.append)
    )
    assert begun.wait(10)
    if arrived:
        gate.set()
        wait_until(lambda: hub._ready)
        call.cancel()
    else:
        call.cancel()
        assert late == []
        gate.set()
    wait_until(lambda: late == ["x"])
    call.cancel()
    hub.run_once()
    assert late == ["x"]


def test_late_result_that_cannot_be_given_back(hub, crew, caplog):
    begun, gate = threading.Event(), threading.Event()

    def late(result):
        raise OSError("gone")

    call = crew.submit(Call(hub, lambda: begun.set() or gate.wait(), pytest.fail, late))
    assert begun.wait(10)
    call.cancel()
    gate.set()
    wait_until(lambda: "Could not give back the result of a call: OSError('gone')" in caplog.text)


def test_cancelled_before_it_began(hub, crew):
    gate = threading.Event()
    for _ in range(2):
        crew.submit(Call(hub, gate.wait, lambda *outcome: None))
    call = crew.submit(Call(hub, pytest.fail, pytest.fail, pytest.fail))
    call.cancel()
    gate.set()
    wait_until(lambda: not crew._open)


def test_retire_waits_for_what_must_not_be_lost(hub, crew):
    gate = threading.Event()
    finished = []

    def errand():
        time.sleep(0.1)
        finished.append(1)

    crew.submit(Call(hub, gate.wait, pytest.fail))
    crew.submit(Call(hub, errand, lambda *outcome: None, waits=False))
    started = time.monotonic()
    crew.retire(timeout=5)
    assert finished == [1]
    assert time.monotonic() - started < 3
    gate.set()


def test_program_ends_while_a_call_waits():
    program = """
import time
from kombu_rs.asynchronous import Hub
from kombu_rs.asynchronous.crew import Call, get_crew
get_crew().submit(Call(Hub(), lambda: time.sleep(60), print))
get_crew().submit(Call(Hub(), lambda: time.sleep(0.2) or print("finished"), print, waits=False))
"""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "finished\n"
    assert done.stderr == ""
    assert time.monotonic() - started < 20


def works(crew):
    """Whether a crew makes a call, for a loop of its own."""
    hub = Hub()
    results = []
    crew.submit(Call(hub, lambda: 1, lambda *outcome: results.append(outcome)))
    deadline = time.monotonic() + 10
    while not results and time.monotonic() < deadline:
        hub.run_once()
    return results == [(1, None)]


def test_child_has_a_crew_of_its_own(hub):
    # While threads change the states of calls all the time.
    crew = get_crew()
    stop = threading.Event()
    done = []

    def again(*outcome):
        done.append(1)
        if not stop.is_set():
            crew.submit(Call(hub, lambda: 1, again))

    for _ in range(4):
        again()
    turn_until(hub, lambda: len(done) > 50)
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if get_crew() is not crew and works(get_crew()) else 1)
        before = len(done)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        turn_until(hub, lambda before=before: len(done) > before)
    stop.set()
    wait_until(lambda: not crew._open)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_gets_nothing_of_what_waits_for_its_parent(hub, crew):
    delivered, given_back = [], []
    calls = [
        crew.submit(Call(hub, lambda: 1, lambda *outcome: delivered.append(outcome), late))
        for late in (None, given_back.append)
    ]
    wait_until(lambda: not crew._open)
    pid = os.fork()
    if pid == 0:
        # Not through pytest's exits.
        try:
            calls[1].cancel()
            hub.run_once()
            os._exit(0 if not delivered and not given_back else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    calls[1].cancel()
    turn_until(hub, lambda: delivered)
    assert (delivered, given_back) == ([(1, None)], [1])
