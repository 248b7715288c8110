"""
AMQPStorm: blocking calls, and a thread that reads.
"""

from __future__ import annotations

import amqpstorm
from amqpstorm import Channel, Message

from benchmarks.measure import Meter, Task, case_of, report


def publish(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A call for each message, which returns when it has left.
    """
    body, queue = task.body, task.queue
    meter.start()
    for _ in range(task.count):
        channel.basic.publish(body, queue)
    channel.queue.declare(queue, passive=True)
    meter.stop()


def consume(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A callback is called with each message.
    """
    count = task.count

    def handle(_: Message) -> None:
        nonlocal count
        count -= 1
        if not count:
            meter.stop()
            channel.stop_consuming()

    meter.start()
    channel.basic.consume(handle, task.queue, no_ack=True)
    channel.start_consuming(auto_decode=False)


def ack(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A callback is called with each message, and acknowledges it.
    """
    count = task.count

    def handle(message: Message) -> None:
        nonlocal count
        message.ack()
        count -= 1
        if not count:
            channel.stop_consuming()

    channel.basic.qos(task.prefetch)
    meter.start()
    channel.basic.consume(handle, task.queue)
    channel.start_consuming(auto_decode=False)
    channel.queue.declare(task.queue, passive=True)
    meter.stop()


def keep(channel: Channel, task: Task, meter: Meter) -> None:
    """
    All messages are kept.
    """
    kept: list[Message] = []

    def handle(message: Message) -> None:
        kept.append(message)
        if len(kept) == task.count:
            meter.stop()
            channel.stop_consuming()

    meter.start()
    channel.basic.consume(handle, task.queue, no_ack=True)
    channel.start_consuming(auto_decode=False)


def get(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One message after the other.
    """
    meter.start()
    for _ in range(task.count):
        assert channel.basic.get(task.queue, no_ack=True, auto_decode=False)
    meter.stop()


def declare(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One round trip after the other.
    """
    meter.start()
    for _ in range(task.count):
        channel.queue.declare(task.queue, passive=True)
    meter.stop()


def connect(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One connection after the other.
    """
    meter.start()
    for _ in range(task.count):
        open_connection(task).close()
    meter.stop()


CASES = {
    each.__name__: each for each in (publish, consume, ack, keep, get, declare, connect)
}


def open_connection(task: Task) -> amqpstorm.Connection:
    address = task.address
    return amqpstorm.Connection(
        address.hostname,
        address.username,
        address.password,
        port=address.port,
        virtual_host=task.virtual_host,
    )


def run() -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    meter = Meter(task)
    connection = open_connection(task)
    case(connection.channel(), task, meter)
    report(meter, {"AMQPStorm": amqpstorm.__version__})
    connection.close()


if __name__ == "__main__":
    run()
