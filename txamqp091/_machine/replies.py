# -*- test-case-name: txamqp091.test.unit.machine.test_replies -*-
"""
The queue of answers that a channel waits for.

AMQP 0-9-1 has no request numbers: a broker answers the requests of a channel in
their order.  So requests may be sent without waiting for the answers, and each
answer belongs to the oldest request.

But for three.  RabbitMQ's queues, not its channels, answer ``basic.consume`` and
``basic.cancel``, and ``tx.commit`` is answered when its messages are safe: requests
that follow may be answered before these.  So they wait apart, the first two by the
consumer tag that is in the answer, too.

A caller that gave up stays in the queue, so that its answer is not taken for the
next one's.  Nothing needs to be done for that: a cancelled ``Deferred`` swallows
the one result that still comes.
"""

from __future__ import annotations

from collections import deque

from txamqp091._machine.sinks import ReplyHandle
from txamqp091.errors import AMQPError, CommandInvalid
from txamqp091.wire.method import Method
from txamqp091.wire.spec import BasicCancel, BasicConsume, TxCommit

__all__ = ["Replies"]

#: What may be answered after requests that were sent later.
_APART = (BasicConsume, BasicCancel, TxCommit)


class Replies:
    """
    First in, first out: what may answer, and who is to be told.
    """

    __slots__ = ("_apart", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[tuple[type[Method], ...], ReplyHandle]] = deque()
        self._apart: dict[tuple[type[Method], str], deque[ReplyHandle]] = {}

    def __len__(self) -> int:
        return len(self._waiting) + sum(map(len, self._apart.values()))

    def expect(self, method: Method, handle: ReplyHandle) -> None:
        """
        Note that an answer to this method will come for ``handle``.
        """
        if type(method) in _APART:
            key = (method.replies[0], getattr(method, "consumer_tag", ""))
            self._apart.setdefault(key, deque()).append(handle)
        else:
            self._waiting.append((method.replies, handle))

    def check(self, reply: type[Method]) -> None:
        """
        :raises CommandInvalid: when nobody waits, or for something else.
        """
        if not self._waiting:
            raise CommandInvalid(
                f"{reply.name}, for which nobody asked", *reply.identity
            )
        replies = self._waiting[0][0]
        if reply not in replies:
            wanted = " or ".join(each.name for each in replies)
            raise CommandInvalid(f"{reply.name} instead of {wanted}", *reply.identity)

    def take(self, reply: Method) -> ReplyHandle:
        """
        The handle that waits for this method.

        :raises CommandInvalid: as `check` does.
        """
        kind = type(reply)
        if self._apart:
            # A consumer whose tag the broker chooses waits under none.
            for tag in (getattr(reply, "consumer_tag", ""), ""):
                handles = self._apart.get((kind, tag))
                if handles:
                    handle = handles.popleft()
                    if not handles:
                        del self._apart[kind, tag]
                    return handle
        self.check(kind)
        return self._waiting.popleft()[1]

    def fail(self, reason: AMQPError) -> None:
        """
        Tell all who wait that no answer will come.
        """
        waiting, self._waiting = self._waiting, deque()
        apart, self._apart = self._apart, {}
        for _, handle in waiting:
            handle.errback(reason.with_traceback(None))
        for handles in apart.values():
            for handle in handles:
                handle.errback(reason.with_traceback(None))
