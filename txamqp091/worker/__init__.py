# -*- test-case-name: txamqp091.test.unit.worker.test_consumer_service -*-
"""
Calls handlers for the messages of queues: `ConsumerService`, its failure policy, and
retries.

The names below are public; the modules of this package are not.
"""

from __future__ import annotations

from txamqp091.worker.batches import Partial
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.counts import Counts
from txamqp091.worker.decoding import Decode, UndecodableBody
from txamqp091.worker.deduplication import Deduplicate, MessageIds, RecentMessageIds
from txamqp091.worker.failure_policy import (
    Dead,
    FailurePolicy,
    Halt,
    HandlerTimeout,
    OnError,
    OnRefused,
    Pause,
    Reject,
    Requeue,
    Retry,
    TooManyDeliveries,
)
from txamqp091.worker.handler_runner import HandlerOptions
from txamqp091.worker.health import ConsumerHealth, Health
from txamqp091.worker.message_context import log_fields
from txamqp091.worker.middleware import Middleware
from txamqp091.worker.rate_limit import RateLimit
from txamqp091.worker.retry_queues import RetryQueues
from txamqp091.worker.startup import run_shutdown, run_startup, started
from txamqp091.worker.stream_offsets import OffsetFile, OffsetFileInUse

__all__ = [
    "ConsumerHealth",
    "ConsumerService",
    "Counts",
    "Dead",
    "Decode",
    "Deduplicate",
    "FailurePolicy",
    "Halt",
    "HandlerOptions",
    "HandlerTimeout",
    "Health",
    "MessageIds",
    "Middleware",
    "OffsetFile",
    "OffsetFileInUse",
    "OnError",
    "OnRefused",
    "Partial",
    "Pause",
    "RateLimit",
    "RecentMessageIds",
    "Reject",
    "Requeue",
    "Retry",
    "RetryQueues",
    "TooManyDeliveries",
    "UndecodableBody",
    "log_fields",
    "run_shutdown",
    "run_startup",
    "started",
]
