"""
txamqp091, on Twisted's default reactor.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react

import twisted
import txamqp091
from benchmarks.measure import Meter, Task, case_of, report
from txamqp091 import connect as open_connection
from txamqp091.channel import Channel
from txamqp091.message import Delivery, Message


async def publish(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A Deferred for each message; it fires when the message may leave.
    """
    body, queue, chunk = task.body, task.queue, task.chunk
    meter.start()
    for number in range(task.count):
        left = channel.basic_publish("", queue, body)
        if number % chunk == 0:
            await left
    await channel.queue_declare(queue, passive=True)
    meter.stop()


async def publish_many(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One Deferred for all messages; it fires when the last one may leave.
    """
    body, queue = task.body, task.queue
    meter.start()
    await channel.publish_many(Message("", queue, body) for _ in range(task.count))
    await channel.queue_declare(queue, passive=True)
    meter.stop()


async def confirm(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A Deferred for each message; it fires when the broker has taken the message, and
    the next one is published.
    """
    body, queue, count = task.body, task.queue, task.count
    await channel.confirm_select(task.window)
    published = confirmed = 0
    done: Deferred[None] = Deferred()

    def publish_next() -> None:
        nonlocal published
        if published < count:
            published += 1
            channel.basic_publish("", queue, body).addCallbacks(taken, done.errback)

    def taken(_: None) -> None:
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


async def confirm_many(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One Deferred for all messages; it fires when the broker has taken all.
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
    done: Deferred[None] = Deferred()

    def handle(delivery: Delivery) -> None:
        nonlocal count
        count -= 1
        if not count:
            done.callback(None)

    meter.start()
    await channel.basic_consume(task.queue, handle, auto_ack=True)
    await done
    meter.stop()


async def ack(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A handler is called with each message, and acknowledges it.
    """
    count = task.count
    done: Deferred[None] = Deferred()

    def handle(delivery: Delivery) -> None:
        nonlocal count
        delivery.ack()
        count -= 1
        if not count:
            done.callback(None)

    meter.start()
    await channel.basic_consume(task.queue, handle, prefetch=task.prefetch)
    await done
    await channel.queue_declare(task.queue, passive=True)
    meter.stop()


async def ack_joined(channel: Channel, task: Task, meter: Meter) -> None:
    """
    The same, and those of one turn of the reactor leave as one.
    """
    channel.join_acks()
    await ack(channel, task, meter)


async def ack_multiple(channel: Channel, task: Task, meter: Meter) -> None:
    """
    A handler is called with each message, and acknowledges every 50th, with all that
    came before it.
    """
    count = task.count
    done: Deferred[None] = Deferred()

    def handle(delivery: Delivery) -> None:
        nonlocal count
        count -= 1
        if count % 50 == 0:
            delivery.ack(multiple=True)
        if not count:
            done.callback(None)

    meter.start()
    await channel.basic_consume(task.queue, handle, prefetch=task.prefetch)
    await done
    await channel.queue_declare(task.queue, passive=True)
    meter.stop()


async def keep(channel: Channel, task: Task, meter: Meter) -> None:
    """
    All messages are kept.
    """
    kept: list[Delivery] = []
    done: Deferred[None] = Deferred()

    def handle(delivery: Delivery) -> None:
        kept.append(delivery)
        if len(kept) == task.count:
            meter.stop()
            done.callback(None)

    meter.start()
    await channel.basic_consume(task.queue, handle, auto_ack=True)
    await done


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
    A hundred at a time.
    """
    meter.start()
    for first in range(0, task.count, 100):
        await gatherResults(
            channel.queue_declare(task.queue, passive=True)
            for _ in range(min(100, task.count - first))
        )
    meter.stop()


async def connect(channel: Channel, task: Task, meter: Meter) -> None:
    """
    One connection after the other.
    """
    reactor = channel.connection.reactor
    meter.start()
    for _ in range(task.count):
        connection = await open_connection(reactor, task.uri)
        await connection.close()
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
    for each in (publish, publish_many, confirm, confirm_many, consume, ack,
                 ack_joined, ack_multiple, keep, get,
                 declare, declare_pipelined, connect, channels)
}  # fmt: skip


async def run(reactor: IReactorTime) -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)
    meter = Meter(task, reactor.callLater)
    connection = await open_connection(reactor, task.uri)
    await case(await connection.open_channel(), task, meter)
    broker = connection.server_properties
    report(
        meter,
        {
            "txamqp091": txamqp091.__version__,
            "Twisted": twisted.__version__,
            broker["product"]: broker["version"],
        },
    )
    await connection.close()


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(run(reactor)))
