"""
aiormq, on asyncio.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage

from benchmarks.measure import Meter, Task, case_of, report


async def publish(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    A call for each message, which returns when it has left.
    """
    body, queue = task.body, task.queue
    meter.start()
    for _ in range(task.count):
        await channel.basic_publish(body, routing_key=queue)
    await channel.queue_declare(queue, passive=True)
    meter.stop()


async def confirm(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    As many tasks as may be unconfirmed, each of which publishes one after the other.
    """
    body, queue, left = task.body, task.queue, iter(range(task.count))

    async def work() -> None:
        for _ in left:
            await channel.basic_publish(body, routing_key=queue)

    meter.start()
    await asyncio.gather(*(work() for _ in range(task.window)))
    meter.stop()


async def consume(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    A coroutine is run for each message.
    """
    count = task.count
    done = asyncio.Event()

    async def handle(_: DeliveredMessage) -> None:
        nonlocal count
        count -= 1
        if not count:
            done.set()

    meter.start()
    await channel.basic_consume(task.queue, handle, no_ack=True)
    await done.wait()
    meter.stop()


async def ack(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    A coroutine is run for each message, and acknowledges it.
    """
    count = task.count
    done = asyncio.Event()

    async def handle(message: DeliveredMessage) -> None:
        nonlocal count
        assert message.delivery_tag is not None
        await channel.basic_ack(message.delivery_tag)
        count -= 1
        if not count:
            done.set()

    await channel.basic_qos(prefetch_count=task.prefetch)
    meter.start()
    await channel.basic_consume(task.queue, handle)
    await done.wait()
    await channel.queue_declare(task.queue, passive=True)
    meter.stop()


async def keep(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    All messages are kept.
    """
    kept: list[DeliveredMessage] = []
    done = asyncio.Event()

    async def handle(message: DeliveredMessage) -> None:
        kept.append(message)
        if len(kept) == task.count:
            meter.stop()
            done.set()

    meter.start()
    await channel.basic_consume(task.queue, handle, no_ack=True)
    await done.wait()


async def get(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    One message after the other.
    """
    meter.start()
    for _ in range(task.count):
        assert (await channel.basic_get(task.queue, no_ack=True)).body
    meter.stop()


async def declare(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    One round trip after the other.
    """
    meter.start()
    for _ in range(task.count):
        await channel.queue_declare(task.queue, passive=True)
    meter.stop()


async def declare_pipelined(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    A hundred at a time.
    """
    meter.start()
    for first in range(0, task.count, 100):
        await asyncio.gather(
            *(
                channel.queue_declare(task.queue, passive=True)
                for _ in range(min(100, task.count - first))
            )
        )
    meter.stop()


async def connect(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    One connection after the other.
    """
    meter.start()
    for _ in range(task.count):
        await (await aiormq.connect(task.uri)).close()
    meter.stop()


async def channels(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    Many channels that do nothing.
    """
    opened = []
    meter.start()
    for _ in range(task.count):
        opened.append(await channel.connection.channel())
    meter.stop()


CASES = {
    each.__name__: each
    for each in (publish, confirm, consume, ack, keep, get, declare, declare_pipelined,
                 connect, channels)
}  # fmt: skip


async def run() -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    meter = Meter(task, asyncio.get_running_loop().call_later)
    connection = await aiormq.connect(task.uri)
    channel = await connection.channel(publisher_confirms=task.case == "confirm")
    await case(channel, task, meter)
    report(meter, {"aiormq": version("aiormq")})
    await connection.close()


if __name__ == "__main__":
    asyncio.run(run())
