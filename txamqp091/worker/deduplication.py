# -*- test-case-name: txamqp091.test.unit.worker.test_deduplication -*-
"""
A middleware that handles each message once: `Deduplicate`.
"""

from __future__ import annotations

__all__ = ["Deduplicate", "MessageIds", "RecentMessageIds"]

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from txamqp091.consumer import Handler
from txamqp091.errors import UndecodableProperty
from txamqp091.message import Delivery


class MessageIds(Protocol):
    """
    Remembers the ``message_id`` of messages that were handled.  Both methods may return
    a Deferred or an awaitable.
    """

    def contains(self, message_id: str) -> object:
        """
        Whether a message was handled.
        """

    def add(self, message_id: str) -> object:
        """
        Remember that a message was handled.
        """


class RecentMessageIds:
    """
    The ids of the last messages, in memory.
    """

    def __init__(self, limit: int = 100_000) -> None:
        """
        :param limit: how many ids are kept; the oldest one is forgotten first.
        :raises ValueError: the limit is less than 1.
        """
        if limit < 1:
            raise ValueError(f"a limit of {limit} message ids: at least 1 is needed")
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ids)

    def contains(self, message_id: str) -> bool:
        """
        Whether a message was handled.
        """
        return message_id in self._ids

    def add(self, message_id: str) -> None:
        """
        Remember that a message was handled.
        """
        self._ids[message_id] = None
        self._ids.move_to_end(message_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)


class Deduplicate:
    """
    Acknowledges a message without calling the handler, if a message with the same
    ``message_id`` was handled before.  A message whose handler has failed was not
    handled.  A message without an id is always handled.

    Two copies of a message that come at the same time are handled one after the other.
    """

    def __init__(self, ids: MessageIds | None = None) -> None:
        """
        :param ids: remembers the messages; by default the last 100,000, in memory.  To
            remember them over restarts and in several processes, give it an object of
            your own.
        """
        self._ids: MessageIds = RecentMessageIds() if ids is None else ids
        # The copies that are being handled; each Deferred fires when that has ended.
        self._running: dict[str, Deferred[None]] = {}

    def __call__(self, handler: Callable[[Delivery], Deferred[Any]]) -> Handler:
        """
        Middleware: wrap a handler.
        """

        def handle(delivery: Delivery) -> object:
            try:
                message_id = delivery.properties.message_id
            except UndecodableProperty:
                message_id = None
            if message_id is None:
                return handler(delivery)
            return self._handle(handler, delivery, message_id)

        return handle

    async def _handle(
        self,
        handler: Callable[[Delivery], Deferred[Any]],
        delivery: Delivery,
        message_id: str,
    ) -> None:
        while (running := self._running.get(message_id)) is not None:
            await _wait_for(running)
        ended = self._running[message_id] = Deferred()
        try:
            if not await _value(self._ids.contains(message_id)):
                await handler(delivery)
                await _value(self._ids.add(message_id))
        finally:
            del self._running[message_id]
            ended.callback(None)


async def _value(result: object) -> object:
    return await result if isinstance(result, Awaitable) else result


def _wait_for(deferred: Deferred[None]) -> Deferred[None]:
    """
    A Deferred of one's own, which may be cancelled.
    """
    own: Deferred[None] = Deferred()
    deferred.addCallback(lambda _: None if own.called else own.callback(None))
    return own
