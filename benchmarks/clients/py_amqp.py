"""
py-amqp, the client below Kombu and Celery: blocking calls, no pipelining.
"""

from __future__ import annotations

from typing import Any

import amqp

from benchmarks.measure import Meter, Task, case_of, report


def publish(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    A call for each message, which returns when it has left.
    """
    body, queue = task.body, task.queue
    meter.start()
    for _ in range(task.count):
        channel.basic_publish(amqp.Message(body), routing_key=queue)
    channel.queue_declare(queue, passive=True)
    meter.stop()


def confirm(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    The same, with so many unconfirmed.
    """
    body, queue, window = task.body, task.queue, task.window
    confirmed = 0

    def taken(delivery_tag: int, _: bool) -> None:
        nonlocal confirmed
        # RabbitMQ answers for a single queue in order.
        confirmed = max(confirmed, delivery_tag)

    channel.confirm_select()
    channel.events["basic_ack"].add(taken)
    meter.start()
    for published in range(task.count):
        while published - confirmed >= window:
            channel.connection.drain_events()
        channel.basic_publish(amqp.Message(body), routing_key=queue)
    while confirmed < task.count:
        channel.connection.drain_events()
    meter.stop()


def consume(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    A callback is called with each message.
    """
    received = 0

    def handle(_: Any) -> None:
        nonlocal received
        received += 1

    meter.start()
    channel.basic_consume(task.queue, callback=handle, no_ack=True)
    while received < task.count:
        channel.connection.drain_events()
    meter.stop()


def ack(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    A callback is called with each message, and acknowledges it.
    """
    received = 0

    def handle(message: Any) -> None:
        nonlocal received
        channel.basic_ack(message.delivery_tag)
        received += 1

    channel.basic_qos(0, task.prefetch, False)
    meter.start()
    channel.basic_consume(task.queue, callback=handle)
    while received < task.count:
        channel.connection.drain_events()
    channel.queue_declare(task.queue, passive=True)
    meter.stop()


def keep(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    All messages are kept.
    """
    kept: list[Any] = []
    meter.start()
    channel.basic_consume(task.queue, callback=kept.append, no_ack=True)
    while len(kept) < task.count:
        channel.connection.drain_events()
    meter.stop()


def get(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    One message after the other.
    """
    meter.start()
    for _ in range(task.count):
        assert channel.basic_get(task.queue, no_ack=True)
    meter.stop()


def declare(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    One round trip after the other.
    """
    meter.start()
    for _ in range(task.count):
        channel.queue_declare(task.queue, passive=True)
    meter.stop()


def connect(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    One connection after the other.
    """
    meter.start()
    for _ in range(task.count):
        open_connection(task).close()
    meter.stop()


def channels(channel: amqp.Channel, task: Task, meter: Meter) -> None:
    """
    Many channels that do nothing.
    """
    meter.start()
    opened = [channel.connection.channel() for _ in range(task.count)]
    meter.stop()
    del opened


CASES = {
    each.__name__: each
    for each in (publish, confirm, consume, ack, keep, get, declare, connect, channels)
}


def open_connection(task: Task) -> amqp.Connection:
    address = task.address
    connection = amqp.Connection(
        f"{address.hostname}:{address.port}",
        address.username,
        address.password,
        virtual_host=task.virtual_host,
    )
    connection.connect()
    return connection


def run() -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    meter = Meter(task)
    connection = open_connection(task)
    case(connection.channel(), task, meter)
    report(meter, {"py-amqp": amqp.__version__})
    connection.close()


if __name__ == "__main__":
    run()
