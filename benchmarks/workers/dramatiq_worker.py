"""
dramatiq, with its worker in this process.
"""

from __future__ import annotations

import os
import time
from typing import Any

import dramatiq
from counting import done
from dramatiq.brokers.rabbitmq import RabbitmqBroker

broker = RabbitmqBroker(url=os.environ["BENCH_URI"], middleware=[])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"], actor_name="work")
def work(message: dict[str, Any]) -> None:
    done(message)


worker = dramatiq.Worker(broker, worker_threads=1)
worker.start()
while True:
    time.sleep(60)
