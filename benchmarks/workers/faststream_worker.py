"""
FastStream.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from counting import done
from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

broker = RabbitBroker(
    os.environ["BENCH_URI"], default_channel=Channel(prefetch_count=100), logger=None
)
queue = RabbitQueue(os.environ["BENCH_QUEUE"], declare=False)


@broker.subscriber(queue)
async def handle(message: dict[str, Any]) -> None:
    done(message)


asyncio.run(FastStream(broker, logger=None).run())
