"""
pika's adapter for Twisted, on Twisted's default reactor.
"""

from __future__ import annotations

from typing import Any

import pika
from pika.adapters.twisted_connection import (
    TwistedChannel,
    TwistedProtocolConnection,
)
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.protocol import ClientCreator
from twisted.internet.task import deferLater, react

import twisted
from benchmarks.measure import Meter, Task, case_of, report


async def publish(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    A Deferred for each message; it has fired already.  The reactor is let turn now
    and then, or all messages would be in memory before the first one leaves.
    """
    from twisted.internet import reactor

    body, queue, chunk = task.body, task.queue, task.chunk
    meter.start()
    for number in range(task.count):
        channel.basic_publish("", queue, body)
        if number % chunk == 0:
            await deferLater(reactor, 0)
    await channel.queue_declare(queue, passive=True)
    meter.stop()


async def confirm(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    A Deferred for each message; it fires when the broker has taken the message, and
    the next one is published.
    """
    body, queue, count = task.body, task.queue, task.count
    await channel.confirm_delivery()
    published = confirmed = 0
    done: Deferred[None] = Deferred()

    def publish_next() -> None:
        nonlocal published
        if published < count:
            published += 1
            channel.basic_publish("", queue, body).addCallbacks(taken, done.errback)

    def taken(_: object) -> None:
        nonlocal confirmed
        confirmed += 1
        if confirmed == count:
            done.callback(None)
        else:
            publish_next()

    meter.start()
    for _ in range(task.window):
        publish_next()
    await done
    meter.stop()


async def consume(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    A DeferredQueue, which is all that there is.
    """
    meter.start()
    messages, _ = await channel.basic_consume(task.queue, auto_ack=True)
    for _ in range(task.count):
        await messages.get()
    meter.stop()


async def ack(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    The same, and each message is acknowledged.
    """
    await channel.basic_qos(prefetch_count=task.prefetch)
    meter.start()
    messages, _ = await channel.basic_consume(task.queue)
    for _ in range(task.count):
        channel_, method, _, _ = await messages.get()
        channel_.basic_ack(method.delivery_tag)
    await channel.queue_declare(task.queue, passive=True)
    meter.stop()


async def keep(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    All messages are kept.
    """
    meter.start()
    messages, _ = await channel.basic_consume(task.queue, auto_ack=True)
    kept = [await messages.get() for _ in range(task.count)]
    meter.stop()
    del kept


async def get(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    One message after the other.
    """
    meter.start()
    for _ in range(task.count):
        assert await channel.basic_get(task.queue, auto_ack=True)
    meter.stop()


async def declare(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    One round trip after the other.
    """
    meter.start()
    for _ in range(task.count):
        await channel.queue_declare(task.queue, passive=True)
    meter.stop()


async def declare_pipelined(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    A hundred at a time.
    """
    meter.start()
    for first in range(0, task.count, 100):
        await gatherResults(
            channel.queue_declare(task.queue, passive=True)
            for _ in range(min(100, task.count - first))
        )
    meter.stop()


async def connect(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    One connection after the other.
    """
    from twisted.internet import reactor

    meter.start()
    for _ in range(task.count):
        connection = await open_connection(reactor, task)
        await connection.close()
    meter.stop()


async def channels(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    Many channels that do nothing.
    """
    from twisted.internet import reactor

    connection = await open_connection(reactor, task)
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


async def open_connection(reactor: Any, task: Task) -> TwistedProtocolConnection:
    parameters = pika.URLParameters(task.uri)
    creator = ClientCreator(reactor, TwistedProtocolConnection, parameters)
    connection = await creator.connectTCP(parameters.host, parameters.port)
    return await connection.ready


async def run(reactor: Any) -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    meter = Meter(task, reactor.callLater)
    connection = await open_connection(reactor, task)
    channel = await connection.channel()
    await case(channel, task, meter)
    report(meter, {"pika": pika.__version__, "Twisted": twisted.__version__})
    connection.close()


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(run(reactor)))
