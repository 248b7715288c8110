# -*- test-case-name: txamqp091.test.unit.client.test_coroutines -*-
"""
Runs coroutines that often have nothing to await: `begin`.
"""

from __future__ import annotations

__all__ = ["begin"]

from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred


def begin(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """
    Run a coroutine, as `Deferred.fromCoroutine` does, in a copy of the present context.

    :returns: its result, if there is nothing that it waits for; else a Deferred, as
        `Deferred.fromCoroutine` returns it.
    """
    # A worker's message with a coroutine that awaits nothing costs 0.4 to 0.6 of what
    # it costs with a Deferred.
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as end:
        return end.value
    return Deferred.fromCoroutine(_continued(coroutine, context, awaited))


def _continued(
    coroutine: Coroutine[Any, Any, Any], context: Context, awaited: Any
) -> Generator[Any, Any, Any]:
    """
    The rest of a coroutine that has begun.
    """
    while True:
        try:
            value = yield awaited
        except GeneratorExit:
            # Nothing refers to it any more; the coroutine may have ended before this.
            context.run(coroutine.close)
            raise
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, value)
        try:
            awaited = context.run(step)
        except StopIteration as end:
            return end.value
