# -*- test-case-name: txamqp091.test.unit.worker.test_startup -*-
"""
What a process prepares before its first message, such as a database pool.

A startup function opens it and returns it; handlers ask `started` for it::

    async def open_pool() -> Pool: ...

    async def handler(delivery: Delivery) -> None:
        pool = started(open_pool)

A daemon runs the function that the setting ``startup`` names.  Other programs, and
tests, run `run_startup` and `run_shutdown`.
"""

from __future__ import annotations

__all__ = ["run_shutdown", "run_startup", "started"]

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

from twisted.internet.defer import Deferred

from txamqp091.errors import LocalProtocolError
from txamqp091.worker.calling import call

T = TypeVar("T")

#: What each startup function has returned in this process.
_results: dict[Callable[[], Any], Any] = {}


@overload
def started(startup: Callable[[], Deferred[T]]) -> T: ...


@overload
def started(startup: Callable[[], Coroutine[Any, Any, T]]) -> T: ...


@overload
def started(startup: Callable[[], T]) -> T: ...


def started(startup: Callable[[], Any]) -> Any:
    """
    What a startup function has returned, or its Deferred or coroutine has given.

    :raises LocalProtocolError: the function was not run, or the process has shut down.
    """
    try:
        return _results[startup]
    except KeyError:
        name = getattr(startup, "__qualname__", repr(startup))
        raise LocalProtocolError(
            f"{name} was not run at the start: name it in the setting startup, or call "
            "run_startup"
        ) from None


async def run_startup(
    startup: Callable[[], Any], loop: asyncio.AbstractEventLoop | None = None
) -> Any:
    """
    Run a startup function, and keep what it returns for `started`.

    :param startup: a plain function, a coroutine function, or one that returns a
        Deferred.
    :param loop: the loop of asyncio that the reactor runs; None if it runs none.
    :returns: what the function has returned.  Fails as the function does.
    """
    result = _results[startup] = await call(startup, loop=loop)
    return result


async def run_shutdown(
    shutdown: Callable[..., Any] | None,
    startup: Callable[[], Any] | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
) -> None:
    """
    Run a shutdown function, and forget what the startup function has returned.

    :param shutdown: called with what the startup function has returned, if it has a
        parameter, and without arguments otherwise.
    :returns: fires when the function has ended.  Fails as the function does.
    """
    arguments = [_results[startup]] if startup in _results else []
    try:
        if shutdown is not None:
            if not takes_argument(shutdown):
                arguments = []
            await call(shutdown, *arguments, loop=loop)
    finally:
        if startup is not None:
            _results.pop(startup, None)


def takes_argument(function: Callable[..., Any]) -> bool:
    """
    Whether a function can be called with one argument.
    """
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True
