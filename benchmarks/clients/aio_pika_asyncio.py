"""
aio-pika, on asyncio, and on top of aiormq.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from benchmarks.measure import Meter, Task, case_of, report


async def publish(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    A call for each message, which returns when it has left.
    """
    body, queue, exchange = task.body, task.queue, channel.default_exchange
    meter.start()
    for _ in range(task.count):
        await exchange.publish(aio_pika.Message(body), queue)
    await channel.declare_queue(queue, passive=True)
    meter.stop()


async def confirm(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    As many tasks as may be unconfirmed, each of which publishes one after the other.
    """
    body, queue, exchange = task.body, task.queue, channel.default_exchange
    left = iter(range(task.count))

    async def work() -> None:
        for _ in left:
            # RabbitMQ alone would answer for each mandatory message apart.
            await exchange.publish(aio_pika.Message(body), queue, mandatory=False)

    meter.start()
    await asyncio.gather(*(work() for _ in range(task.window)))
    meter.stop()


async def consume(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    A coroutine is run for each message.
    """
    count = task.count
    done = asyncio.Event()

    async def handle(_: AbstractIncomingMessage) -> None:
        nonlocal count
        count -= 1
        if not count:
            done.set()

    queue = await channel.get_queue(task.queue)
    meter.start()
    await queue.consume(handle, no_ack=True)
    await done.wait()
    meter.stop()


async def ack(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    A coroutine is run for each message, and acknowledges it.
    """
    count = task.count
    done = asyncio.Event()

    async def handle(message: AbstractIncomingMessage) -> None:
        nonlocal count
        await message.ack()
        count -= 1
        if not count:
            done.set()

    await channel.set_qos(prefetch_count=task.prefetch)
    queue = await channel.get_queue(task.queue)
    meter.start()
    await queue.consume(handle)
    await done.wait()
    await channel.declare_queue(task.queue, passive=True)
    meter.stop()


async def keep(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    All messages are kept.
    """
    kept: list[AbstractIncomingMessage] = []
    done = asyncio.Event()

    async def handle(message: AbstractIncomingMessage) -> None:
        kept.append(message)
        if len(kept) == task.count:
            meter.stop()
            done.set()

    queue = await channel.get_queue(task.queue)
    meter.start()
    await queue.consume(handle, no_ack=True)
    await done.wait()


async def get(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    One message after the other.
    """
    queue = await channel.get_queue(task.queue)
    meter.start()
    for _ in range(task.count):
        assert await queue.get(no_ack=True)
    meter.stop()


async def declare(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    One round trip after the other.
    """
    meter.start()
    for _ in range(task.count):
        await channel.declare_queue(task.queue, passive=True)
    meter.stop()


async def declare_pipelined(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    A hundred at a time.
    """
    meter.start()
    for first in range(0, task.count, 100):
        await asyncio.gather(
            *(
                channel.declare_queue(task.queue, passive=True)
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
        await (await aio_pika.connect(task.uri)).close()
    meter.stop()


async def channels(channel: AbstractChannel, task: Task, meter: Meter) -> None:
    """
    Many channels that do nothing.
    """
    connection: AbstractConnection = channel._connection  # type: ignore[attr-defined]
    opened = []
    meter.start()
    for _ in range(task.count):
        opened.append(await connection.channel())
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
    connection = await aio_pika.connect(task.uri)
    channel = await connection.channel(publisher_confirms=task.case == "confirm")
    await case(channel, task, meter)
    report(meter, {"aio-pika": version("aio-pika")})
    await connection.close()


if __name__ == "__main__":
    asyncio.run(run())
