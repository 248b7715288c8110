# -*- test-case-name: txamqp091.test.interop.test_clients -*-
"""
aio-pika, on asyncio.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import aio_pika
from aio_pika.exceptions import AMQPError

from txamqp091.test.interop.foreign import refused, say


def shown(message: Any) -> dict[str, Any]:
    """
    What a message has.
    """
    found = {
        "body": message.body,
        "exchange": message.exchange,
        "key": message.routing_key,
        "redelivered": message.redelivered,
        "headers": dict(message.headers),
        "mode": int(message.delivery_mode),
        "priority": message.priority,
        "type": message.content_type,
        "id": message.message_id,
    }
    return {key: value for key, value in found.items() if value is not None}


async def messages(channel: Any) -> None:
    """
    Messages out and in, with confirms.
    """
    queue = await channel.declare_queue("foreign", exclusive=True)
    say("declared", queue.declaration_result.message_count)
    exchange = await channel.declare_exchange(
        "foreign-x", aio_pika.ExchangeType.HEADERS, auto_delete=True
    )
    await queue.bind(exchange, arguments={"x-match": "any", "a": 1, "b": "two"})
    tables: list[Any] = [{"a": 1}, {"b": "two", "c": 3.5}, {"a": 2}]
    for headers in tables:
        message = aio_pika.Message(
            b"body",
            headers=headers,
            content_type="text/plain",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            priority=5,
            message_id="m",
        )
        confirmed = await exchange.publish(message, "key", mandatory=False)
        say("confirmed", type(confirmed).__name__)
    returned = await channel.default_exchange.publish(
        aio_pika.Message(b"back"), "nowhere"
    )
    say("returned", returned.delivery.reply_code, returned.delivery.reply_text)
    got = await queue.get()
    say("got", shown(got), got.message_count)
    await got.reject(requeue=True)
    async with queue.iterator() as iterator:
        async for message in iterator:
            say("consumed", shown(message))
            await message.ack()
            if message.headers.get("b"):
                break
    say("empty", await queue.get(fail=False))


async def priorities(channel: Any) -> None:
    """
    A queue in which the important is first.
    """
    arguments = {"x-max-priority": 5}
    queue = await channel.declare_queue("", exclusive=True, arguments=arguments)
    say("named", queue.name)
    for priority in (1, 5, 3):
        message = aio_pika.Message(b"%d" % priority, priority=priority)
        await channel.default_exchange.publish(message, queue.name)
    order = [(await queue.get(no_ack=True)).body for _ in range(3)]
    say("by priority", order)


async def replies(channel: Any) -> None:
    """
    Direct reply-to.
    """
    answered: asyncio.Future[bytes] = asyncio.Future()
    address = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)

    async def answer(message: Any) -> None:
        answered.set_result(message.body)

    tag = await address.consume(answer, no_ack=True)
    queue = await channel.get_queue("foreign")
    await channel.default_exchange.publish(
        aio_pika.Message(b"question", reply_to="amq.rabbitmq.reply-to"), "foreign"
    )
    question = await queue.get(no_ack=True)
    say("asked", question.body, question.reply_to)
    await channel.default_exchange.publish(
        aio_pika.Message(b"answer"), question.reply_to, mandatory=False
    )
    say("answered", await answered)
    await address.cancel(tag)


async def cancelled(channel: Any) -> None:
    """
    A consumer whose queue goes.
    """
    queue = await channel.declare_queue("foreign-gone", exclusive=True)

    async def take(message: Any) -> None:
        """
        Nothing comes.
        """

    await queue.consume(take)
    say("deleted", (await queue.delete(if_unused=False)).message_count)


async def refusals(connection: Any) -> None:
    """
    What costs a channel.
    """
    with refused("missing queue", AMQPError):
        await (await connection.channel()).declare_queue("missing", passive=True)
    with refused("missing exchange", AMQPError):
        channel = await connection.channel()
        exchange = await channel.get_exchange("missing", ensure=False)
        await exchange.publish(aio_pika.Message(b"x"), "key")
    with refused("other arguments", AMQPError):
        channel = await connection.channel()
        await channel.declare_queue(
            "foreign", exclusive=True, arguments={"x-expires": 100_000}
        )
    with refused("bad argument", AMQPError):
        channel = await connection.channel()
        await channel.declare_queue(
            "foreign-bad", exclusive=True, arguments={"x-max-length": "many"}
        )
    with refused("another user", AMQPError):
        channel = await connection.channel()
        message = aio_pika.Message(b"x", user_id="mallory")
        await channel.default_exchange.publish(message, "foreign")
    with refused("unroutable", AMQPError):
        channel = await connection.channel(on_return_raises=True)
        message = aio_pika.Message(b"x")
        await channel.default_exchange.publish(message, "nowhere")


async def main(uri: str) -> None:
    """
    Do all of it.
    """
    logging.disable()
    connection: Any = await aio_pika.connect(uri)
    channel = await connection.channel()
    await messages(channel)
    await priorities(channel)
    await replies(channel)
    await cancelled(channel)
    await refusals(connection)
    with refused("locked", AMQPError):
        other = await aio_pika.connect(uri)
        await (await other.channel()).declare_queue("foreign", passive=True)
    await other.close()
    with refused("wrong password", AMQPError, ConnectionError):
        await aio_pika.connect(uri.replace(":guest@", ":wrong@"))
    with refused("missing virtual host", AMQPError, ConnectionError):
        await aio_pika.connect(uri.rpartition("/")[0] + "/missing")
    await connection.close()
    say("closed", connection.is_closed)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
