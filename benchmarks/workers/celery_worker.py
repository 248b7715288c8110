"""
Celery, with its solo pool.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from counting import done
from kombu import Queue

app = Celery("bench", broker=os.environ["BENCH_URI"])
app.conf.update(
    task_queues=[Queue(os.environ["BENCH_QUEUE"], no_declare=True)],
    task_ignore_result=True,
    task_create_missing_queues=False,
    worker_prefetch_multiplier=100,
    worker_hijack_root_logger=False,
)


@app.task(name="work")
def work(message: dict[str, Any]) -> None:
    done(message)


app.worker_main(
    ["worker", "--pool=solo", "--loglevel=ERROR", "--without-gossip",
     "--without-mingle", "--without-heartbeat"]
)  # fmt: skip
