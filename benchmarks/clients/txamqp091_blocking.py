"""
txamqp091, without a loop.
"""

from __future__ import annotations

import twisted
import txamqp091
from benchmarks.measure import Meter, Task, case_of, report
from txamqp091.adapters.blocking import BlockingChannel, BlockingConnection
from txamqp091.message import Delivery, Message


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


def publish_many(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    One call for all messages, which returns when they have left.
    """
    body, queue = task.body, task.queue
    meter.start()
    channel.publish_many(Message("", queue, body) for _ in range(task.count))
    channel.queue_declare(queue, passive=True)
    meter.stop()


def confirm_many(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    One call for all messages; it returns when the broker has taken all.
    """
    body, queue = task.body, task.queue
    channel.confirm_select(task.window)
    meter.start()
    channel.publish_many(Message("", queue, body) for _ in range(task.count))
    meter.stop()


def consume(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    A handler is called with each message.
    """
    count = task.count

    def handle(_: Delivery) -> None:
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
    A handler is called with each message, and acknowledges it.
    """
    count = task.count

    def handle(delivery: Delivery) -> None:
        nonlocal count
        delivery.ack()
        count -= 1
        if not count:
            channel.stop_consuming()

    channel.basic_qos(prefetch_count=task.prefetch)
    meter.start()
    channel.basic_consume(task.queue, handle)
    channel.start_consuming()
    channel.queue_declare(task.queue, passive=True)
    meter.stop()


def keep(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    All messages are kept.
    """
    kept: list[Delivery] = []

    def handle(delivery: Delivery) -> None:
        kept.append(delivery)
        if len(kept) == task.count:
            meter.stop()
            channel.stop_consuming()

    meter.start()
    channel.basic_consume(task.queue, handle, auto_ack=True)
    channel.start_consuming()


def get(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    One message after the other.
    """
    meter.start()
    for _ in range(task.count):
        assert channel.basic_get(task.queue, auto_ack=True)
    meter.stop()


def declare(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    One round trip after the other.
    """
    meter.start()
    for _ in range(task.count):
        channel.queue_declare(task.queue, passive=True)
    meter.stop()


def connect(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    One connection after the other.
    """
    meter.start()
    for _ in range(task.count):
        BlockingConnection(task.uri).close()
    meter.stop()


def channels(channel: BlockingChannel, task: Task, meter: Meter) -> None:
    """
    Many channels that do nothing.
    """
    meter.start()
    opened = [channel.connection.channel() for _ in range(task.count)]
    meter.stop()
    del opened


# With confirms, `basic_publish` is one round trip for a message: another case.
CASES = {
    each.__name__: each
    for each in (publish, publish_many, confirm_many, consume, ack, keep, get, declare,
                 connect, channels)
}  # fmt: skip


def run() -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    meter = Meter(task)
    connection = BlockingConnection(task.uri)
    case(connection.channel(), task, meter)
    report(meter, {"txamqp091": txamqp091.__version__, "Twisted": twisted.__version__})
    connection.close()


if __name__ == "__main__":
    run()
