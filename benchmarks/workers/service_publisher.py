"""
txamqp091's service ``Publisher``: a hundred messages at a time, confirmed.
"""

from __future__ import annotations

import json
import os
from typing import Any

from counting import COUNT, PAYLOAD, done
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import react

from txamqp091.service.client import AMQPClientService
from txamqp091.service.publisher import Publisher
from txamqp091.wire.properties import Properties

BODY = json.dumps(PAYLOAD).encode()
PROPERTIES = Properties(content_type="application/json", delivery_mode=2)


async def run(reactor: Any) -> None:
    service = AMQPClientService(reactor, os.environ["BENCH_URI"])
    service.startService()
    publisher = Publisher(service)
    for _ in range(COUNT // 100):
        await gatherResults(
            publisher.publish("", os.environ["BENCH_QUEUE"], BODY, PROPERTIES)
            for _ in range(100)
        )
        for _ in range(100):
            done(PAYLOAD)


react(lambda reactor: ensureDeferred(run(reactor)))
