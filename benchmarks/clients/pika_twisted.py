"""
pika's adapter for Twisted, on Twisted's default reactor.
"""

from __future__ import annotations

import pika
from pika.adapters.twisted_connection import (
    TwistedChannel,
    TwistedProtocolConnection,
)
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.protocol import ClientCreator
from twisted.internet.task import deferLater, react

import twisted
from benchmarks.measure import CHUNK, Meter, Task, case_of, report


async def publish(channel: TwistedChannel, task: Task, meter: Meter) -> None:
    """
    A Deferred for each message; it has fired already.  The reactor is let turn now
    and then, or all messages would be in memory before the first one leaves.
    """
    from twisted.internet import reactor

    body, queue = task.body, task.queue
    meter.start()
    for number in range(task.count):
        channel.basic_publish("", queue, body)
        if number % CHUNK == 0:
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


CASES = {"publish": publish, "confirm": confirm, "consume": consume, "ack": ack}


async def run(reactor: IReactorTCP) -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    parameters = pika.URLParameters(task.uri)
    creator = ClientCreator(reactor, TwistedProtocolConnection, parameters)
    connection = await creator.connectTCP(parameters.host, parameters.port)
    await connection.ready
    channel = await connection.channel()
    meter = Meter()
    await case(channel, task, meter)
    report(meter, {"pika": pika.__version__, "Twisted": twisted.__version__})
    connection.close()


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(run(reactor)))
