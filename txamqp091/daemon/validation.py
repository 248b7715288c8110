# -*- test-case-name: txamqp091.test.unit.daemon.test_settings -*-
"""
Whether the daemon's settings go together.  What each may be by itself,
`txamqp091.daemon.settings_schema` has seen to.
"""

from __future__ import annotations

__all__ = ["check"]

from txamqp091.daemon.consumer_settings import (
    ConsumerSettings,
    QueueType,
    RetryMethod,
)
from txamqp091.daemon.settings import Settings
from txamqp091.daemon.settings_schema import Problem
from txamqp091.daemon.tokens import check_token
from txamqp091.service import Topology
from txamqp091.worker.failure_policy import OnError


def check(settings: Settings) -> None:
    """
    See whether the settings go together.

    :raises Problem: they do not.
    """
    if not settings.consumers:
        raise Problem("consumers", "there are none")
    if settings.token is not None:
        if settings.password_file:
            raise Problem("password_file", "there is a token too")
        check_token(settings.token)
    try:
        declared = Topology.from_dict(
            {
                "exchanges": list(settings.exchanges),
                "queues": list(settings.queues),
                "bindings": list(settings.bindings),
            }
        )
    except (ValueError, TypeError) as error:
        path, _, text = str(error).partition(": ")
        raise Problem(path, text or "it is not understood") from None
    labels: set[str] = set()
    for place, consumer in enumerate(settings.consumers):
        path = f"consumers[{place}]"
        if consumer.label in labels:
            raise Problem(
                f"{path}.name",
                f"there is a consumer {consumer.label!r} before this one: give them "
                "different names",
            )
        labels.add(consumer.label)
        _check_consumer(consumer, path, declared)
    try:
        settings.topology()
    except ValueError as error:
        raise Problem("consumers", str(error)) from None


def _check_consumer(consumer: ConsumerSettings, path: str, declared: Topology) -> None:
    limit, prefetch = consumer.concurrency, consumer.prefetch
    if limit is not None and prefetch and limit > prefetch:
        raise Problem(
            f"{path}.concurrency",
            f"is {limit}, more than prefetch, which is {prefetch}: the rest would "
            "never have a message",
        )
    order = consumer.order_by
    if order and order != "routing-key" and not order.removeprefix("header:"):
        raise Problem(f"{path}.order_by", "lacks the name of the header")
    if order and order != "routing-key" and not order.startswith("header:"):
        raise Problem(
            f"{path}.order_by", f"is {order!r}, neither routing-key nor header:NAME"
        )
    if consumer.declare and declared.queue(consumer.queue) is not None:
        raise Problem(
            f"{path}.declare", f"the queue {consumer.queue!r} is among the queues too"
        )
    _check_stream(consumer, path, declared)
    retry = consumer.retry
    if retry is None:
        if consumer.means is OnError.RETRY:
            raise Problem(
                f"{path}.on_error",
                'is "retry", and there is no table retry that says where dead '
                "messages go",
            )
        return
    path = f"{path}.retry"
    if not retry.delays:
        raise Problem(f"{path}.delays", "there are none")
    if retry.queue_type is QueueType.DEFAULT:
        raise Problem(f"{path}.queue_type", "is neither quorum nor classic")
    if retry.parking == consumer.queue:
        raise Problem(f"{path}.parking", "is the consumer's own queue")
    if not retry.parking and not retry.dead_letters:
        queue = declared.queue(consumer.queue)
        if queue is None or "x-dead-letter-exchange" not in queue.arguments:
            raise Problem(
                f"{path}.parking",
                "is missing: a message that has failed for the last time would be "
                "lost.  Name a queue for such messages; or say dead_letters = true, "
                "if the queue has a dead-letter exchange by a policy of the broker",
            )
    if retry.method is RetryMethod.BROKER and not consumer.may_leave_it_to_the_broker():
        raise Problem(
            f"{path}.method",
            'is "broker", which needs declare = true and a quorum queue',
        )


def _check_stream(consumer: ConsumerSettings, path: str, declared: Topology) -> None:
    """
    See whether a stream is treated as one: it takes nothing back.
    """
    queue = declared.queue(consumer.queue)
    if consumer.stream_offset is None:
        if queue is not None and queue.is_stream:
            raise Problem(
                f"{path}.stream_offset",
                f"is missing: the queue {consumer.queue!r} is a stream",
            )
        if consumer.offset_file:
            raise Problem(f"{path}.offset_file", "is for streams: see stream_offset")
        return
    if consumer.declare:
        raise Problem(
            f"{path}.declare",
            "is not for streams: declare it among the queues, with how much it keeps",
        )
    if queue is not None and not queue.is_stream:
        raise Problem(
            f"{path}.stream_offset", f"the queue {consumer.queue!r} is no stream"
        )
    if not consumer.prefetch:
        raise Problem(f"{path}.prefetch", "is 0, and a stream needs a limit")
    if consumer.retry is not None:
        raise Problem(f"{path}.retry", "is not for streams, which take nothing back")
    if consumer.on_error not in (OnError.REJECT, OnError.HALT):
        raise Problem(
            f"{path}.on_error",
            'has to be "reject", to go on without what failed, or "halt": a stream '
            "takes nothing back",
        )
