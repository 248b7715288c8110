"""
aio-pika, by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import aio_pika
from counting import done


async def handle(message: Any) -> None:
    async with message.process():
        done(json.loads(message.body))


async def main() -> None:
    connection = await aio_pika.connect_robust(os.environ["BENCH_URI"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    queue = await channel.get_queue(os.environ["BENCH_QUEUE"], ensure=False)
    await queue.consume(handle)
    await asyncio.Future()


if os.environ.get("BENCH_UVLOOP"):
    import uvloop

    uvloop.install()
asyncio.run(main())
