"""
``basic_consume`` of txamqp091, by hand.
"""

from __future__ import annotations

import json
import os
from typing import Any

from counting import done
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from txamqp091 import connect


def handle(delivery: Any) -> None:
    done(json.loads(delivery.body))
    delivery.ack()


async def run(reactor: Any) -> None:
    connection = await connect(reactor, os.environ["BENCH_URI"])
    channel = await connection.open_channel()
    await channel.basic_consume(os.environ["BENCH_QUEUE"], handle, prefetch=100)
    await Deferred()


react(lambda reactor: ensureDeferred(run(reactor)))
