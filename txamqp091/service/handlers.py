# -*- test-case-name: txamqp091.test.test_service_handlers -*-
"""
Handlers: found by their names, and run, one message each.

`Work` answers for the messages on behalf of the handler, and counts the answers.
Where the messages come from is in `txamqp091.service.consumer`.
"""

from __future__ import annotations

__all__ = ["HandlerNotFound", "Tally", "Work", "load_handler"]

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091.consumer import Handler
from txamqp091.errors import UndecodableProperty, printable
from txamqp091.message import Delivery


class HandlerNotFound(Exception):
    """
    There is no such handler, or it cannot be one.
    """


def load_handler(name: str) -> Handler:
    """
    Import a handler.

    :param name: ``package.module:function``; behind the colon may be the attribute
        of an attribute too, such as ``shop:orders.take``.
    :raises ValueError: when the name has another form.
    :raises HandlerNotFound: when there is no such module or function, when importing
        the module fails, or when what is found cannot be called with a delivery.
    """
    module_name, colon, path = name.partition(":")
    names = [*module_name.split("."), *path.split(".")]
    if not colon or not all(each.isidentifier() for each in names):
        raise ValueError(f"{name!r} does not have the form package.module:function")
    found = _import(module_name)
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise HandlerNotFound(
                f"the module {module_name} has no {path} "
                f"({getattr(found, '__file__', None) or type(found).__name__})"
            ) from None
    _check(found, name)
    return found  # type: ignore[return-value]


def _import(name: str) -> object:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        # The handler's own imports may be what is missing.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise HandlerNotFound(
                f"there is no module {error.name}, neither among the installed "
                "packages nor in the current folder"
            ) from None
        problem = _describe(error)
    except Exception as error:
        problem = _describe(error)
    except SystemExit as error:
        problem = f"it ended the program, with {error.code!r}"
    raise HandlerNotFound(f"the module {name} cannot be imported: {problem}")


def _describe(error: Exception) -> str:
    """
    An error in one line, with the place where it was raised.
    """
    text = printable(traceback.format_exception_only(error)[-1].strip())
    if isinstance(error, SyntaxError):
        return f"{text} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    last = [each for each in frames if not each.filename.startswith("<frozen")][-1]
    return f"{text} ({last.filename}, line {last.lineno})"


def _check(found: object, name: str) -> None:
    """
    Refuse what would take no message, or do nothing with it.
    """
    if not callable(found):
        raise HandlerNotFound(f"{name} is a {type(found).__name__}, not a function")
    if inspect.isclass(found):
        raise HandlerNotFound(f"{name} is a class; a handler is a function")
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        # Called, it would do nothing; and the message would be acknowledged.
        raise HandlerNotFound(
            f"{name} is a generator function: it lacks @inlineCallbacks, "
            "or has a yield too much"
        )
    try:
        inspect.signature(found).bind(object())
    except TypeError:
        raise HandlerNotFound(
            f"{name} cannot be called with a delivery as its one argument"
        ) from None
    except ValueError:  # it is written in C, and does not tell
        pass


@dataclass
class Tally:
    """
    What became of the messages.

    :ivar acknowledged: the handler succeeded.
    :ivar requeued: it failed, and the message went back to its queue.
    :ivar rejected: it failed, and the message was dropped, or went to the dead
        letters.
    :ivar settled: the handler has answered for the message itself.
    :ivar stale: the handler ended after the channel had, so that there was nobody to
        tell: the broker delivers the message again.
    :ivar unfinished: the handler was given up, and the message went back.
    """

    acknowledged: int = 0
    requeued: int = 0
    rejected: int = 0
    settled: int = 0
    stale: int = 0
    unfinished: int = 0

    def __str__(self) -> str:
        counts = [f"{self.acknowledged} acknowledged", f"{self.requeued} requeued"]
        counts.append(f"{self.rejected} rejected")
        if self.settled:
            counts.append(f"{self.settled} answered by the handler itself")
        if self.stale:
            counts.append(f"{self.stale} done but not acknowledged in time")
        counts.append(f"{self.unfinished} unfinished")
        return ", ".join(counts)


class Work:
    """
    Runs a handler for each delivery, and answers for it: acknowledges the message if
    the handler succeeds; puts it back the first time that it fails, and rejects it
    the second time.  A handler that answers itself is respected.

    :ivar tally: the answers so far.
    """

    _log = Logger()

    def __init__(
        self, handler: Handler, queue: str, answerable: Callable[[], bool]
    ) -> None:
        """
        :param queue: what logs call the queue.
        :param answerable: whether the broker would hear an answer.
        """
        self.tally = Tally()
        self._handler = handler
        self._queue = queue
        self._answerable = answerable
        self._running: dict[Delivery, Deferred[Any]] = {}
        self._abandoned: set[Delivery] = set()
        self._idle: list[Deferred[None]] = []

    @property
    def running(self) -> int:
        """
        How many handlers have begun and not ended.
        """
        return len(self._running)

    def take(self, delivery: Delivery) -> Deferred[None] | None:
        """
        Run the handler.

        :returns: fires with None when it has ended, well or not; it does not fail.
            None, if it has ended already.
        """
        try:
            result = self._handler(delivery)
        except (Exception, SystemExit):
            self._failed(delivery, Failure())
            return None
        if inspect.iscoroutine(result):
            result = Deferred.fromCoroutine(result)
        if isinstance(result, Deferred):
            return self._await(result, delivery)
        if hasattr(result, "__await__"):
            # Nobody would: the message were acknowledged before anything is done.
            problem = f"a handler returned what Twisted cannot wait for: {type(result)}"
            self._failed(delivery, Failure(TypeError(problem)))
        else:
            self._succeeded(delivery)
        return None

    def _await(self, result: Deferred[Any], delivery: Delivery) -> Deferred[None]:
        self._running[delivery] = result
        ended = result.addCallbacks(
            lambda _: self._succeeded(delivery),
            lambda failure: self._failed(delivery, failure),
        )
        return ended.addBoth(self._ended, delivery)

    def _ended(self, _: object, delivery: Delivery) -> None:
        del self._running[delivery]
        self._abandoned.discard(delivery)
        if not self._running:
            idle, self._idle = self._idle, []
            for waiting in idle:
                waiting.callback(None)

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when no handler is running, which may be at once.
        """
        if not self._running:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._idle.remove)
        self._idle.append(waiting)
        return waiting

    def abandon(self) -> None:
        """
        Give up the handlers that are still running: cancel them, and hand their
        messages back.
        """
        running = list(self._running.items())
        for delivery, _ in running:
            self.tally.unfinished += 1
            if not delivery.settled:
                # Not a reject: that the time was over is no fault of the message.
                delivery.nack()
            self._abandoned.add(delivery)
            self._log.warn(
                "Gave up a handler; its message goes back to the queue {queue} "
                "({identity})",
                queue=printable(self._queue),
                identity=identity(delivery),
            )
        for _, result in running:
            result.cancel()

    # -- the answers ---------------------------------------------------------------

    def _succeeded(self, delivery: Delivery) -> None:
        if delivery in self._abandoned:
            return
        if delivery.settled:
            self.tally.settled += 1
        elif not self._answerable():
            self.tally.stale += 1
        else:
            delivery.ack()
            self.tally.acknowledged += 1

    def _failed(self, delivery: Delivery, failure: Failure) -> None:
        if delivery in self._abandoned:
            return
        outcome = self._refuse(delivery, failure)
        self._log.failure(
            "A handler failed with a message of the queue {queue}: {outcome} "
            "({identity})",
            failure=failure,
            level=LogLevel.error,
            queue=printable(self._queue),
            outcome=outcome,
            identity=identity(delivery),
        )

    def _refuse(self, delivery: Delivery, failure: Failure) -> str:
        tally = self.tally
        if delivery.settled:
            tally.settled += 1
            return "it had been answered for"
        if not self._answerable():
            tally.stale += 1
            return "its channel has gone, so it will come again"
        # A property that cannot be read now will not be readable later.
        hopeless = failure.check(UndecodableProperty) is not None
        requeue = not (delivery.redelivered or hopeless)
        delivery.reject(requeue)
        if requeue:
            tally.requeued += 1
            return "it goes back, to be tried once more"
        tally.rejected += 1
        return "it was rejected"


def identity(delivery: Delivery) -> str:
    """
    Which message it is, for a log.  Of what is in it, nothing.
    """
    try:
        message_id = repr(delivery.properties.message_id)
    except UndecodableProperty:
        message_id = "unreadable"
    return (
        f"delivery tag {delivery.delivery_tag}, message-id {printable(message_id)}, "
        f"exchange {printable(repr(delivery.exchange))}, "
        f"routing key {printable(repr(delivery.routing_key))}"
    )
