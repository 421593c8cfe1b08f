"""What a parent process has received is not its child's to settle."""

from __future__ import annotations

import subprocess
import sys

from kombu_rs import Connection, Queue
from servers.process import wait_until

PROGRAM = """
import logging, os, sys
from kombu_rs import Connection, Queue

logging.basicConfig()
connection = Connection(sys.argv[1])
link = connection.connect()
channel = connection.channel()
queue = Queue("work", routing_key="work")(channel)
queue.declare()
producer = connection.Producer(channel)
producer.publish("the parent's", routing_key="work")
held = queue.get()
producer.publish("the child's", routing_key="work")

child = os.fork()
if not child:
    held.ack()  # nothing is connected for it
    assert not link.connected
    own = queue.get()
    assert own.payload == "the child's", own.payload
    held.channel.basic_ack(held.delivery_tag)
    held.channel.basic_ack(held.delivery_tag, multiple=True)
    held.channel.basic_reject(held.delivery_tag, requeue=False)
    assert own.delivery_tag != held.delivery_tag
    assert [int(tag) for tag in channel._unacked()] == [own.delivery_tag]
    # Its goodbye says that all that was said before was read.
    connection.release()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
held.ack()
connection.release()
"""


def test_a_childs_acknowledgement_of_a_parents_message(rabbitmq_url: str) -> None:
    """Their numbers begin at one in both: it must not settle what the child has received itself."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, rabbitmq_url], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "are dropped" in line]
    assert len(lines) == 1, done.stderr
    assert "only its parent can settle that" in lines[0]
    with Connection(rabbitmq_url) as connection:
        queue = Queue("work")(connection.channel())
        left = wait_until(queue.get, 10, "the child's message to come again")
        assert left.payload == "the child's"
        assert queue.get() is None
