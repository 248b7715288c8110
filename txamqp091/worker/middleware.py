# -*- test-case-name: txamqp091.test.unit.worker.test_middleware -*-
"""
Functions around handlers: `Middleware`.

A middleware takes a handler and returns another one::

    def timed(handler):
        async def handle(delivery):
            started = monotonic()
            try:
                await handler(delivery)
            finally:
                print("took", monotonic() - started)

        return handle

The contract:

- The first middleware of a list is the outermost one: it is called first.
- A middleware is called once, when the consumer is made.
- The handler that a middleware gets always returns a Deferred, whatever the user's
  handler returns.  It raises nothing.  It may be called more than once, or not at all.
- What a middleware returns is called with each delivery in the reactor's thread, also
  if the handler itself runs in a thread.  It may do what a handler may do: return
  nothing, a Deferred or an awaitable, and raise `Reject`, `Retry`, `Requeue`, `Halt`,
  `Pause` or any other exception.  Its outcome is the outcome of the message.
- The time limit of a handler includes the middleware.  When the limit has passed, or
  when a stop has waited long enough, the Deferred of the outermost middleware is
  cancelled; a coroutine gets ``CancelledError`` where it waits.
- A consumer without middleware calls its handler directly.
"""

from __future__ import annotations

__all__ = ["Middleware", "wrap"]

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from txamqp091.consumer import Handler
from txamqp091.message import Delivery
from txamqp091.worker.calling import call

#: Takes a handler that returns a Deferred, and returns a handler.
Middleware = Callable[[Callable[[Delivery], "Deferred[Any]"]], Handler]


def wrap(
    handler: Handler,
    middleware: Sequence[Middleware],
    loop: asyncio.AbstractEventLoop | None = None,
) -> Handler:
    """
    Put middleware around a handler.

    :param middleware: the outermost one is the first.
    :param loop: the loop of asyncio that the reactor runs; None if it runs none.
    :raises TypeError: a middleware did not return a function.
    """
    for each in reversed(middleware):
        wrapped = each(_deferring(handler, loop))
        if not callable(wrapped):
            name = getattr(each, "__qualname__", repr(each))
            raise TypeError(f"the middleware {name} returned {wrapped!r}, no function")
        handler = wrapped
    return handler


def _deferring(
    handler: Handler, loop: asyncio.AbstractEventLoop | None
) -> Callable[[Delivery], Deferred[Any]]:
    def deferring(delivery: Delivery) -> Deferred[Any]:
        return call(handler, delivery, loop=loop)

    return deferring
