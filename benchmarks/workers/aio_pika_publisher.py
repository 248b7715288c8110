"""
aio-pika: a hundred messages at a time, confirmed.
"""

from __future__ import annotations

import asyncio
import json
import os

import aio_pika
from counting import COUNT, PAYLOAD, done

BODY = json.dumps(PAYLOAD).encode()


async def main() -> None:
    connection = await aio_pika.connect_robust(os.environ["BENCH_URI"])
    channel = await connection.channel()
    exchange = channel.default_exchange
    for _ in range(COUNT // 100):
        await asyncio.gather(
            *(
                exchange.publish(
                    aio_pika.Message(
                        BODY,
                        content_type="application/json",
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    ),
                    os.environ["BENCH_QUEUE"],
                )
                for _ in range(100)
            )
        )
        for _ in range(100):
            done(PAYLOAD)


asyncio.run(main())
