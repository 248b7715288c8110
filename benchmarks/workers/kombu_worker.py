"""
kombu's ConsumerMixin.
"""

from __future__ import annotations

import os
from typing import Any

from counting import done
from kombu import Connection, Queue
from kombu.mixins import ConsumerMixin


class Worker(ConsumerMixin):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
        queue = Queue(os.environ["BENCH_QUEUE"], no_declare=True)
        return [
            consumer(
                [queue], callbacks=[self.handle], accept=["json"], prefetch_count=100
            )
        ]

    def handle(self, body: object, message: Any) -> None:
        done(body)
        message.ack()


Worker(Connection(os.environ["BENCH_URI"])).run()
