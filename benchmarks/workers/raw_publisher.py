"""
``basic_publish`` of txamqp091, with confirms: a hundred messages at a time.
"""

from __future__ import annotations

import json
import os
from typing import Any

from counting import COUNT, PAYLOAD, done
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import react

from txamqp091 import connect
from txamqp091.wire.properties import Properties

BODY = json.dumps(PAYLOAD).encode()
PROPERTIES = Properties(content_type="application/json", delivery_mode=2)


async def run(reactor: Any) -> None:
    connection = await connect(reactor, os.environ["BENCH_URI"])
    channel = await connection.open_channel()
    await channel.confirm_select()
    for _ in range(COUNT // 100):
        await gatherResults(
            channel.basic_publish("", os.environ["BENCH_QUEUE"], BODY, PROPERTIES)
            for _ in range(100)
        )
        for _ in range(100):
            done(PAYLOAD)


react(lambda reactor: ensureDeferred(run(reactor)))
