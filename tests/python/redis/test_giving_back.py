"""Messages that a program has taken and does not keep are in their queue again, for others."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from contextlib import suppress

import pytest

from kombu_rs import Connection, Consumer, Queue
from kombu_rs.asynchronous import Hub, set_event_loop
from servers.process import wait_until


@pytest.fixture
def fill(redis_server):
    """Puts so many messages into a queue."""

    def fill(count: int) -> None:
        with Connection(redis_server.url()) as connection:
            producer = connection.Producer()
            for number in range(count):
                producer.publish(number, routing_key="q")

    return fill


@pytest.fixture
def places(redis_server):
    """How many messages are in the queue, and how many are claimed."""

    def places() -> tuple[int, int]:
        return redis_server.command("LLEN", "q"), redis_server.command("HLEN", "unacked")

    return places


# -- the end of a program


@pytest.mark.parametrize(
    "end",
    ["", "raise SystemExit(3)", "raise RuntimeError", "raise KeyboardInterrupt", "channel.close()"],
)
def test_a_program_that_ends_without_closing(redis_server, fill, places, end):
    fill(5)
    program = f"""
    from kombu_rs import Connection, Consumer, Queue
    connection = Connection({redis_server.url()!r})
    channel = connection.channel()
    channel.basic_qos(0, 3, False)
    got = []
    Consumer(channel, [Queue("q")], on_message=got.append).consume()
    connection.drain_events(timeout=20)
    assert len(got) == 1
    {end}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=60, check=False)
    assert places() == (5, 0)


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
def test_a_child_gives_back_what_it_has_taken(redis_server, fill, places, how):
    fill(4)
    program = f"""
    import multiprocessing, os, sys
    from kombu_rs import Connection, Queue
    connection = Connection({redis_server.url()!r})
    queue = Queue("q", channel=connection.channel())
    assert queue.get().payload == 0

    def child():
        assert queue.get().payload == 1

    if {how!r} == "fork":
        pid = os.fork()
        if not pid:
            child()
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
    else:
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
    # The child's is here again, and not what its parent has.
    assert connection.default_channel.client.llen("q") == 3
    assert connection.default_channel.client.hlen("unacked") == 1
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=60, check=True)
    assert places() == (4, 0)


@pytest.mark.parametrize("how", ["spawn", "forkserver"])
@pytest.mark.parametrize("connects", ["", "Connection('memory://').connect()"])
def test_a_child_that_imports_anew_gives_back_what_it_has_taken(
    redis_server, fill, places, tmp_path, how, connects
):
    fill(2)
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import multiprocessing
        from kombu_rs import Connection, Queue
        {connects}

        def child():
            assert Queue("q", channel=Connection({redis_server.url()!r}).channel()).get()

        if __name__ == "__main__":
            process = multiprocessing.get_context({how!r}).Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
        """)
    )
    subprocess.run([sys.executable, program], timeout=60, check=True)
    assert places() == (2, 0)


def test_what_a_program_has_goes_back_before_its_children_are_awaited(redis_server, fill, places):
    """Whatever was imported first: a child may wait for just that."""
    fill(2)
    program = f"""
    from kombu_rs import Connection, Queue
    queue = Queue("q", channel=Connection({redis_server.url()!r}).channel())
    assert queue.get()
    import multiprocessing, time

    def child():
        end = time.monotonic() + 20
        other = Connection({redis_server.url()!r}).default_channel.client
        while other.llen("q") < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        print("seen", flush=True)

    multiprocessing.get_context("fork").Process(target=child).start()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        timeout=60,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout == "seen\n"
    assert places() == (2, 0)


def test_a_program_ends_although_its_broker_is_gone(new_redis):
    server = new_redis()
    program = f"""
    import sys
    from kombu_rs import Connection
    connection = Connection({server.url()!r})
    queue = connection.SimpleQueue("q")
    queue.put(1)
    queue.get(timeout=20)
    print("here", flush=True)
    sys.stdin.readline()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "here\n"
        server.pause()
        try:
            process.communicate("end\n", timeout=60)
        finally:
            server.resume()
    assert process.returncode == 0


# -- no_ack


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_an_event_loop_takes_no_more_without_acknowledgements(redis_server, fill, places, end):
    fill(40)
    hub = Hub()
    set_event_loop(hub)
    try:
        with Connection(redis_server.url()) as connection:
            channel = connection.channel()
            connection.register_with_event_loop(hub)
            got = []

            def received(message):
                got.append(message.payload)
                (consumer.cancel if end == "cancel" else channel.close)()

            consumer = Consumer(
                channel, [Queue("q")], on_message=received, no_ack=True, accept=["json"]
            )
            consumer.consume()
            loop = hub.create_loop()
            wait_until(lambda: next(loop) or got, 20, "a message")
    finally:
        hub.close()
        set_event_loop(None)
    assert got == [0]
    assert places() == (39, 0)


# -- consumers that end


def test_cancelling_while_another_thread_drains(redis_server, new_proxy, fill, places):
    """Also when a second channel's fetch is under way, which cancelling waits for."""
    fill(40)
    proxy = new_proxy(redis_server.port)
    with Connection(f"redis://127.0.0.1:{proxy.port}/0") as connection:
        got = []
        channels = [connection.channel() for _ in range(2)]
        consumers = []
        for name, channel in zip(["other", "q"], channels, strict=True):
            channel.basic_qos(0, 40, False)
            consumers.append(Consumer(channel, [Queue(name)], on_message=got.append))
            consumers[-1].consume()
        proxy.delay(0.1, "down")
        stop = threading.Event()

        def drain():
            while not stop.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.5)

        thread = threading.Thread(target=drain)
        thread.start()
        try:
            wait_until(lambda: got, 20, "a message")
            consumers[-1].cancel()
        finally:
            stop.set()
            thread.join()
        proxy.delay(0, "down")
        wait_until(lambda: places()[1] == len(got), 20, lambda: f"{places()}, got {len(got)}")
        assert places() == (40 - len(got), len(got))


# -- ack_emulation


def test_without_claims_messages_are_put_back(redis_server, fill, places):
    fill(5)
    options = {"ack_emulation": False}
    with Connection(redis_server.url(), transport_options=options) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 3, False)
        got = []
        with Consumer(channel, [Queue("q")], on_message=got.append):
            with suppress(TimeoutError):
                while True:
                    connection.drain_events(timeout=0.5)
            assert [message.payload for message in got] == [0, 1, 2]
            assert places() == (2, 0)
            got[0].ack()
            got[1].requeue()
        channel.close()
    assert places() == (4, 0)
    with Connection(redis_server.url()) as connection:
        queue = Queue("q", channel=connection.default_channel)
        messages = [queue.get() for _ in range(4)]
        seen = [(m.payload, bool(m.delivery_info.get("redelivered"))) for m in messages]
        assert seen == [(2, True), (3, False), (4, False), (1, True)]
        for message in messages:
            message.ack()


def test_without_claims_messages_are_put_back_over_the_next_link(redis_server, places):
    options = {"ack_emulation": False}
    with Connection(redis_server.url(), transport_options=options) as connection:
        queue = connection.SimpleQueue("q")
        queue.put(1)
        message = queue.get(timeout=20)
        redis_server.drop_clients()
        with suppress(connection.connection_errors):
            message.requeue()
        queue.put(2)
        wait_until(lambda: places() == (2, 0), 20, lambda: f"not {places()}")
