# -*- test-case-name: txamqp091.test.test_replies -*-
"""
The queue of answers that a channel waits for.

AMQP 0-9-1 has no request numbers: a broker answers the requests of a channel in
their order.  So requests may be sent without waiting for the answers, and each
answer belongs to the oldest request.

A caller that gave up stays in the queue, so that its answer is not taken for the
next one's.  Nothing needs to be done for that: a cancelled ``Deferred`` swallows
the one result that still comes.
"""

from __future__ import annotations

from collections import deque

from txamqp091._machine.sinks import ReplyHandle
from txamqp091.errors import AMQPError, CommandInvalid
from txamqp091.wire.method import Method

__all__ = ["Replies"]


class Replies:
    """
    First in, first out: what may answer, and who is to be told.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[tuple[tuple[type[Method], ...], ReplyHandle]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, replies: tuple[type[Method], ...], handle: ReplyHandle) -> None:
        """
        Note that one of these methods will come for ``handle``.
        """
        self._waiting.append((replies, handle))

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

    def take(self, reply: type[Method]) -> ReplyHandle:
        """
        The handle that waits for this method.

        :raises CommandInvalid: as `check` does.
        """
        self.check(reply)
        return self._waiting.popleft()[1]

    def fail(self, reason: AMQPError) -> None:
        """
        Tell all who wait that no answer will come.
        """
        waiting, self._waiting = self._waiting, deque()
        for _, handle in waiting:
            handle.errback(reason)
