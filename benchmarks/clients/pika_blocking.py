"""
pika's BlockingConnection.
"""

from __future__ import annotations

from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks.measure import Meter, Task, case_of, report


def publish(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    A call for each message, which returns when it has left.
    """
    body, queue = task.body, task.queue
    meter.start()
    for _ in range(task.count):
        channel.basic_publish("", queue, body)
    channel.queue_declare(queue, passive=True)
    meter.stop()


def consume(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    A callback is called with each message.
    """
    count = task.count

    def handle(*_: object) -> None:
        nonlocal count
        count -= 1
        if not count:
            meter.stop()
            channel.stop_consuming()

    meter.start()
    channel.basic_consume(task.queue, handle, auto_ack=True)
    channel.start_consuming()


def ack(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    A callback is called with each message, and acknowledges it.
    """
    count = task.count

    def handle(channel: BlockingChannel, method: Any, *_: object) -> None:
        nonlocal count
        channel.basic_ack(method.delivery_tag)
        count -= 1
        if not count:
            channel.stop_consuming()

    channel.basic_qos(prefetch_count=task.prefetch)
    meter.start()
    channel.basic_consume(task.queue, handle)
    channel.start_consuming()
    channel.queue_declare(task.queue, passive=True)
    meter.stop()


# With confirms, this adapter publishes one message at a time: that is another case.
CASES = {"publish": publish, "consume": consume, "ack": ack}


def run() -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    connection = pika.BlockingConnection(pika.URLParameters(task.uri))
    meter = Meter()
    case(connection.channel(), task, meter)
    report(meter, {"pika": pika.__version__})
    connection.close()


if __name__ == "__main__":
    run()
