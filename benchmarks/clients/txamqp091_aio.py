"""
txamqp091, on asyncio.
"""

from __future__ import annotations

import asyncio

import twisted
import txamqp091
from benchmarks.measure import Meter, Task, case_of, report
from txamqp091.adapters.aio import Channel
from txamqp091.adapters.aio import connect as open_connection
from txamqp091.message import Delivery, Message


async def publish(channel: Channel, task: Task, meter: Meter) -> None:
    """
    An answer for each message, and the loop is let turn now and then.
    """
    body, queue, chunk = task.body, task.queue, task.chunk
    meter.start()
    for number in range(task.count):
        left = channel.basic_publish("", queue, body)
        if number % chunk == 0:
            await left
            await asyncio.sleep(0)
    await channel.queue_declare(queue, passive=True)
    meter.stop()


async def publish_many(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One answer for all messages.
    """
    body, queue = task.body, task.queue
    meter.start()
    await channel.publish_many(Message("", queue, body) for _ in range(task.count))
    await channel.queue_declare(queue, passive=True)
    meter.stop()


async def confirm(channel: Channel, task: Task, meter: Meter) -> None:
    """
    As many tasks as may be unconfirmed, each of which publishes one after the other.
    """
    body, queue = task.body, task.queue
    await channel.confirm_select(task.window)
    left = iter(range(task.count))

    async def work() -> None:
        for _ in left:
            await channel.basic_publish("", queue, body)

    meter.start()
    await asyncio.gather(*(work() for _ in range(task.window)))
    meter.stop()


async def confirm_many(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One answer for all messages; it comes when the broker has taken all.
    """
    body, queue = task.body, task.queue
    await channel.confirm_select(task.window)
    meter.start()
    await channel.publish_many(Message("", queue, body) for _ in range(task.count))
    meter.stop()


async def consume(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A handler is called with each message.
    """
    count = task.count
    done = asyncio.Event()

    def handle(delivery: Delivery) -> None:
        nonlocal count
        count -= 1
        if not count:
            done.set()

    meter.start()
    await channel.basic_consume(task.queue, handle, auto_ack=True)
    await done.wait()
    meter.stop()


async def ack(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A handler is called with each message, and acknowledges it.
    """
    count = task.count
    done = asyncio.Event()

    def handle(delivery: Delivery) -> None:
        nonlocal count
        delivery.ack()
        count -= 1
        if not count:
            done.set()

    meter.start()
    await channel.basic_consume(task.queue, handle, prefetch=task.prefetch)
    await done.wait()
    await channel.queue_declare(task.queue, passive=True)
    meter.stop()


async def keep(channel: Channel, task: Task, meter: Meter) -> None:
    """
    All messages are kept.
    """
    kept: list[Delivery] = []
    done = asyncio.Event()

    def handle(delivery: Delivery) -> None:
        kept.append(delivery)
        if len(kept) == task.count:
            meter.stop()
            done.set()

    meter.start()
    await channel.basic_consume(task.queue, handle, auto_ack=True)
    await done.wait()


async def get(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One message after the other.
    """
    meter.start()
    for _ in range(task.count):
        assert await channel.basic_get(task.queue, auto_ack=True)
    meter.stop()


async def declare(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One round trip after the other.
    """
    meter.start()
    for _ in range(task.count):
        await channel.queue_declare(task.queue, passive=True)
    meter.stop()


async def declare_pipelined(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A hundred at a time: what is asked for leaves before it is awaited.
    """
    meter.start()
    for first in range(0, task.count, 100):
        asked = [
            channel.queue_declare(task.queue, passive=True)
            for _ in range(min(100, task.count - first))
        ]
        for each in asked:
            await each
    meter.stop()


async def connect(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One connection after the other.
    """
    meter.start()
    for _ in range(task.count):
        await (await open_connection(task.uri)).close()
    meter.stop()


async def channels(channel: Channel, task: Task, meter: Meter) -> None:
    """
    Many channels that do nothing.
    """
    opened = []
    meter.start()
    for _ in range(task.count):
        opened.append(await channel.connection.open_channel())
    meter.stop()


CASES = {
    each.__name__: each
    for each in (publish, publish_many, confirm, confirm_many, consume, ack, keep, get,
                 declare, declare_pipelined, connect, channels)
}  # fmt: skip


async def run() -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    meter = Meter(task, asyncio.get_running_loop().call_later)
    async with await open_connection(task.uri) as connection:
        await case(await connection.open_channel(), task, meter)
        report(
            meter,
            {
                "txamqp091": txamqp091.__version__,
                "Twisted": twisted.__version__,
                "broker": connection.server_properties.get("version", "?"),
            },
        )


if __name__ == "__main__":
    asyncio.run(run())
