# -*- test-case-name: txamqp091.test.unit.worker.test_middleware -*-
"""
Calls a function of the user, whatever kind it is: `call`.
"""

from __future__ import annotations

__all__ = ["call", "coroutine_of", "refuse_generator"]

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from txamqp091.worker.asyncio_handlers import run_coroutine

T = TypeVar("T")


def call(
    function: Callable[..., object],
    *arguments: object,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Deferred[Any]:
    """
    Call a plain function, a coroutine function, or one that returns a Deferred or
    something else that can be awaited.

    :param loop: the loop of asyncio that the reactor runs; None if it runs none.
    :returns: fires with the result; fails with the error.  Cancelling it cancels what
        the function waits for.
    """
    try:
        return _deferred(function(*arguments), loop)
    except BaseException:
        return fail(Failure())


def _deferred(result: object, loop: asyncio.AbstractEventLoop | None) -> Deferred[Any]:
    if isinstance(result, Deferred):
        return result
    if isinstance(result, Failure):
        return fail(result)
    if inspect.iscoroutine(result):
        if loop is not None:
            return run_coroutine(result, loop)
        return Deferred.fromCoroutine(result)
    refuse_generator(result, "function")
    if isinstance(result, Awaitable):
        return _deferred(coroutine_of(result), loop)
    return succeed(result)


def refuse_generator(result: object, what: str) -> None:
    """
    Refuse a generator, which a call makes and does not run.

    :param what: what was called.
    :raises TypeError: it is one.
    """
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(
            f"the {what} returned a generator, whose body did not run: decorate it "
            "with inlineCallbacks, or make it an async def without yield"
        )


async def coroutine_of(result: Awaitable[T]) -> T:
    """
    A coroutine that awaits something.
    """
    return await result
