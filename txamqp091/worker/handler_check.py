# -*- test-case-name: txamqp091.test.unit.worker.test_handler_check -*-
"""
Refuses handlers that would do nothing, before any message comes: `check_handler`.
"""

from __future__ import annotations

__all__ = ["check_handler"]

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from txamqp091.errors import printable
from txamqp091.worker.asyncio_handlers import ADVICE, event_loop, uses_asyncio

# What a handler may not be, and the remedy.
_KINDS: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (
        inspect.isgeneratorfunction,
        "a generator function",
        "decorate it with inlineCallbacks, or make it an async def",
    ),
    (inspect.isasyncgenfunction, "an async generator function", "take out its yield"),
)


def check_handler(
    handler: object, reactor: object = None, *, in_thread: bool = False
) -> None:
    """
    Check that a handler can be one.

    :param reactor: the reactor that it runs with; None if that is not known.
    :param in_thread: whether it is called in a thread.
    :raises TypeError: it is no function, or of a kind whose body would not run.
    :raises ValueError: it needs asyncio, and the reactor does not run it.
    """
    name = printable(getattr(handler, "__qualname__", None) or repr(handler))
    if not callable(handler):
        raise TypeError(f"{name} is no function, and no handler")
    for function in _functions(handler):
        for is_kind, kind, remedy in _KINDS:
            if is_kind(function):
                raise TypeError(
                    f"the handler {name} is {kind}, whose body would not run: {remedy}"
                )
        if in_thread and inspect.iscoroutinefunction(function):
            raise TypeError(
                f"the handler {name} is a coroutine function, which runs in the "
                "reactor's thread: leave out in_thread"
            )
    if reactor is not None and event_loop(reactor) is None and uses_asyncio(handler):
        raise ValueError(f"{name}: {ADVICE}")


def _functions(handler: object) -> list[object]:
    """
    The functions whose bodies are to run.
    """
    while isinstance(handler, partial):
        handler = handler.func
    return [handler, type(handler).__call__]
