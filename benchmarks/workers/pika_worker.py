"""
pika's SelectConnection, by hand.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pika
from counting import done


def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    done(json.loads(body))
    channel.basic_ack(method.delivery_tag)


def opened(channel: Any) -> None:
    channel.basic_qos(prefetch_count=100)
    channel.basic_consume(os.environ["BENCH_QUEUE"], handle)


connection = pika.SelectConnection(
    pika.URLParameters(os.environ["BENCH_URI"]),
    on_open_callback=lambda connection: connection.channel(on_open_callback=opened),
)
connection.ioloop.start()
