# -*- test-case-name: txamqp091.test.unit.worker.test_asyncio_handlers -*-
"""
Runs coroutine handlers that use asyncio, on Twisted's asyncio reactor or on asyncio's
loop itself.

Such a handler may await both what asyncio knows, and Deferreds.
"""

from __future__ import annotations

__all__ = ["ADVICE", "event_loop", "needs_asyncio", "run_coroutine", "uses_asyncio"]

import asyncio
import inspect
import sys
from collections.abc import Coroutine, Generator
from functools import partial
from types import CodeType, CoroutineType, ModuleType, coroutine
from typing import Any, cast

from twisted.internet.defer import Deferred

from txamqp091.interfaces import IAsyncioClock

#: What to do when a handler uses asyncio, and the reactor does not.
ADVICE = (
    "the handler uses asyncio, which needs Twisted's asyncio reactor: start the daemon "
    "with `twistd --reactor=asyncio`, or install that reactor"
)

#: The texts of the errors that asyncio raises where no loop runs.
_TEXTS = (
    "no running event loop",
    "There is no current event loop",
    "await wasn't used with future",
)

#: Packages that work with asyncio only.
_PACKAGES = frozenset(("asyncio", "aiohttp", "asyncpg", "aiofiles", "aiokafka"))


def event_loop(reactor: object) -> asyncio.AbstractEventLoop | None:
    """
    The loop of asyncio that a reactor runs; None if it runs none.
    """
    loop: asyncio.AbstractEventLoop
    if IAsyncioClock.providedBy(reactor):
        loop = cast(Any, reactor).loop
        return loop
    # Whoever installed that reactor has loaded the module.
    module = sys.modules.get("twisted.internet.asyncioreactor")
    if module is None or not isinstance(reactor, module.AsyncioSelectorReactor):
        return None
    loop = reactor._asyncioEventloop
    return loop


def needs_asyncio(error: BaseException) -> bool:
    """
    Whether a handler has failed since no loop of asyncio runs.
    """
    return type(error) is RuntimeError and str(error).startswith(_TEXTS)


def uses_asyncio(handler: object) -> bool:
    """
    Whether the body of a coroutine function names a package that needs asyncio.  What
    it calls is not looked at.
    """
    while isinstance(handler, partial):
        handler = handler.func
    function = inspect.unwrap(handler) if callable(handler) else handler
    if not inspect.isroutine(function):
        function = type(function).__call__
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or not inspect.iscoroutinefunction(function):
        return False
    for name in code.co_names:
        found = function.__globals__.get(name)
        if isinstance(found, ModuleType):
            package = found.__name__
        else:
            package = str(getattr(found, "__module__", ""))
        if package.partition(".")[0] in _PACKAGES:
            return True
    return False


def run_coroutine(
    coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> Deferred[Any]:
    """
    Run a coroutine as a task of asyncio.

    :returns: fires with its result, or fails with its error.  Cancelling it cancels the
        task; it fires when the task has ended.
    """
    return Deferred.fromFuture(loop.create_task(_task(coroutine, loop)))


async def _task(
    coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> Any:
    # Since 3.12 a task takes no generator.
    return await _bridged(coroutine, loop)  # type: ignore[arg-type]


def _fired(
    waiting: Deferred[Any], loop: asyncio.AbstractEventLoop
) -> Generator[Any, Any, None]:
    """
    Wait until a Deferred has fired, which keeps its result: whoever awaits it asks for
    that then.
    """
    future: asyncio.Future[None] = loop.create_future()

    def fired(result: Any) -> Any:
        if not future.done():
            future.set_result(None)
        return result

    waiting.addBoth(fired)
    try:
        yield from future
    except asyncio.CancelledError:
        waiting.cancel()
        waiting.addErrback(lambda failure: None)
        raise


@coroutine
def _bridged(
    running: CoroutineType[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> Generator[Any, Any, Any]:
    """
    A coroutine that yields futures of asyncio alone: Deferreds are waited for as
    futures.
    """
    step = partial(running.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as end:
            return end.value
        try:
            value = None
            if isinstance(awaited, Deferred):
                yield from _fired(awaited, loop)
            else:
                value = yield awaited
        except BaseException as error:
            step = partial(running.throw, error)
        else:
            step = partial(running.send, value)
