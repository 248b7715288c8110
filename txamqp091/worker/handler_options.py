# -*- test-case-name: txamqp091.test.unit.worker.test_handler_runner -*-
"""
How a consumer's messages are worked on, as data: `Job`.  Who does it is
`txamqp091.worker.handler_runner`.
"""

from __future__ import annotations

__all__ = ["Job", "Republish"]

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from txamqp091.message import Message
from txamqp091.worker.failure_policy import Policy
from txamqp091.worker.retry_queues import RetryPlan

#: Publishes a message, and fires when the broker has confirmed it.
Republish = Callable[[Message], Deferred[None]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """
    How a consumer's messages are worked on.

    :ivar consumer: what logs and headers call the consumer.
    :ivar policy: what becomes of a message.
    :ivar plan: where those go that are to be retried or parked.
    :ivar concurrency: how many handlers may run at a time; 0 is no limit.
    :ivar order_by: ``"routing-key"`` or ``"header:NAME"``: messages that have the same
        are worked on one after another.  "" for all at once.
    :ivar timeout: how many seconds a handler has; 0 is no limit.
    :ivar log_messages: whether successes are logged too.
    :ivar stream: whether the queue is a stream.  It takes nothing back, and RabbitMQ 3
        closes the connection for the attempt: what is rejected is acknowledged, and
        what would go back stays unanswered, so that it comes again after a reconnect.
    """

    consumer: str = ""
    policy: Policy = Policy()
    plan: RetryPlan | None = None
    concurrency: int = 0
    order_by: str = ""
    timeout: float = 0.0
    log_messages: bool = False
    stream: bool = False
