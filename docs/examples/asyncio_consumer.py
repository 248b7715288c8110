"""A consumer on asyncio that stays connected, until Ctrl-C."""

import asyncio
import sys
from contextlib import suppress

from txamqp091 import Binding, Delivery, Exchange, Queue, Topology
from txamqp091.adapters.aio import AMQPClient

TOPOLOGY = Topology.of(
    Exchange(name="messages", type="topic"),
    Queue(name="greetings"),
    Binding(source="messages", queue="greetings", routing_key="greeting.*"),
)


async def handle(delivery: Delivery) -> None:
    print(delivery.body.decode(), flush=True)
    await asyncio.sleep(0.1)  # whatever asyncio has
    delivery.ack()


async def main(uri: str) -> None:
    async with AMQPClient(uri, topology=TOPOLOGY) as client:
        client.consume("greetings", handle, prefetch=10)
        await client.when_ended()


with suppress(KeyboardInterrupt):
    asyncio.run(main(*sys.argv[1:]))
