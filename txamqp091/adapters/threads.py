# -*- test-case-name: txamqp091.test.unit.adapters.test_threads -*-
"""
Channels and threads: verbs for other threads than the connection's, and handlers that
block, on every loop.

`Delivery.ack` and its like need none of this: any thread may call them.
"""

from __future__ import annotations

__all__ = ["InThreads", "ThreadsafeChannel", "in_threads", "threadsafe"]

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from threading import local
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from txamqp091._threads import ThreadRunner
from txamqp091.adapters._signals import release_signals
from txamqp091.channel import Channel
from txamqp091.errors import LocalProtocolError
from txamqp091.message import Delivery, Message

P = ParamSpec("P")
T = TypeVar("T")


def _future(
    verb: Callable[Concatenate[Channel, P], Deferred[T]],
) -> Callable[Concatenate[ThreadsafeChannel, P], Future[T]]:
    """
    Make a method that calls a verb in the connection's thread, and returns a Future.
    """

    @wraps(verb)
    def ask(self: ThreadsafeChannel, /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._ask(partial(verb, self.native, *args, **kwargs))

    return ask


class _ThreadFuture(Future[T]):
    """
    The Future of a verb.  The connection's own thread cannot wait for it.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """
        Wait for the outcome, and return its error, or None.

        :raises LocalProtocolError: when the connection's own thread calls this, and
            there is no outcome yet.
        """
        if not self.done() and self._channel.settler.is_own_thread:
            raise LocalProtocolError(
                "the connection's own thread cannot wait for this Future, which that "
                "thread has to complete: call the verb of the channel itself"
            )
        return super().exception(timeout)

    def result(self, timeout: float | None = None) -> T:
        """
        Wait for the outcome, and return or raise it.

        :raises LocalProtocolError: as `exception` does.
        """
        error = self.exception(timeout)
        if error is not None:
            # Many may be told of one error: it would keep the stacks of all.
            raise error.with_traceback(None)
        return super().result(0)

    def settle(self, outcome: T | Failure) -> None:
        """
        Set the outcome, unless the Future was cancelled.
        """
        if not self.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Failure):
            error = outcome.value
            assert error is not None
            self.set_exception(error.with_traceback(None))
        else:
            self.set_result(outcome)


class ThreadsafeChannel:
    """
    A channel whose verbs may be called from any thread.

    Each returns a ``concurrent.futures.Future`` at once; cancelling that does what
    cancelling the Deferred would.  Calls from one thread are made in their order, and
    settlements of deliveries among them.  Whatever a verb raises, such as a
    ``TypeError`` for an argument that it does not have, comes through the Future.  The
    connection's own thread cannot wait for a Future: ``result`` refuses there.

    :ivar native: the channel.
    """

    def __init__(self, native: Channel) -> None:
        self.native = native

    @property
    def is_open(self) -> bool:
        """
        Whether the channel was open a moment ago.
        """
        return self.native.is_open

    def _ask(self, verb: Callable[[], Deferred[T]]) -> Future[T]:
        future: _ThreadFuture[T] = _ThreadFuture(self.native)
        connection = self.native.connection
        reactor = cast(IReactorFromThreads, connection.reactor)

        def run() -> None:
            if future.cancelled():
                return
            try:
                deferred = verb()
            except BaseException:
                future.settle(Failure())
                return

            def done(_: object) -> None:
                if future.cancelled():
                    reactor.callFromThread(deferred.cancel)

            future.add_done_callback(done)
            deferred.addBoth(future.settle)

        if connection.close_reason and not getattr(reactor, "running", True):
            run()  # Twisted's reactor has stopped, and would never call it
        else:
            reactor.callFromThread(run)
        return future

    close = _future(Channel.close)
    exchange_declare = _future(Channel.exchange_declare)
    exchange_delete = _future(Channel.exchange_delete)
    exchange_bind = _future(Channel.exchange_bind)
    exchange_unbind = _future(Channel.exchange_unbind)
    queue_declare = _future(Channel.queue_declare)
    queue_bind = _future(Channel.queue_bind)
    queue_unbind = _future(Channel.queue_unbind)
    queue_purge = _future(Channel.queue_purge)
    queue_delete = _future(Channel.queue_delete)
    basic_publish = _future(Channel.basic_publish)
    confirm_select = _future(Channel.confirm_select)
    basic_consume = _future(Channel.basic_consume)
    basic_cancel = _future(Channel.basic_cancel)
    basic_get = _future(Channel.basic_get)
    basic_qos = _future(Channel.basic_qos)
    basic_ack = _future(Channel.basic_ack)
    basic_nack = _future(Channel.basic_nack)
    basic_reject = _future(Channel.basic_reject)
    basic_recover = _future(Channel.basic_recover)
    basic_recover_async = _future(Channel.basic_recover_async)
    tx_select = _future(Channel.tx_select)
    tx_commit = _future(Channel.tx_commit)
    tx_rollback = _future(Channel.tx_rollback)
    flow = _future(Channel.flow)
    flush = _future(Channel.flush)
    access_request = _future(Channel.access_request)

    def publish_many(self, messages: Iterable[Message]) -> Future[None]:
        """
        Publish many messages, as `txamqp091.channel.Channel.publish_many`.  The
        iterable is drawn from in the connection's thread.
        """
        return self._ask(partial(self.native.publish_many, messages))


def threadsafe(channel: Channel) -> ThreadsafeChannel:
    """
    Make the verbs of one of Twisted's channels callable from any thread.
    """
    return ThreadsafeChannel(channel)


def check_plain(function: object, where: str) -> None:
    """
    Check that a function has run when it returns.

    :param where: what would call the function, for the error.
    :raises TypeError: it is not a function, or it is a coroutine or generator function.
    """
    if not callable(function):
        raise TypeError(f"{where} takes a function, not {function!r}")
    plain = getattr(function, "__func__", function)
    while isinstance(plain, partial):
        plain = plain.func
    for each in (plain, getattr(type(plain), "__call__", None)):  # noqa: B004
        for is_kind, kind in _KINDS:
            if is_kind(each):
                name = getattr(plain, "__qualname__", repr(plain))
                raise TypeError(f"{where} cannot run {name}: it is {kind}, {_ADVICE}")


def check_ended(result: object, function: object, where: str) -> None:
    """
    Check that a function has run to its end.

    :param result: what the function has returned.
    :raises TypeError: the result has to be awaited or iterated over.
    """
    if result is None:
        return
    if isinstance(result, CoroutineType):
        result.close()  # or Python would warn that nothing has awaited it
    if hasattr(type(result), "__await__") or isinstance(
        result, GeneratorType | AsyncGeneratorType
    ):
        name = getattr(function, "__qualname__", repr(function))
        kind = type(result).__name__
        raise TypeError(f"{where} cannot await the {kind} of {name}, {_ADVICE}")


_KINDS: list[tuple[Callable[[object], bool], str]] = [
    (iscoroutinefunction, "a coroutine function"),
    (isgeneratorfunction, "a generator function"),
    (isasyncgenfunction, "an async generator function"),
]

_ADVICE = (
    "and nothing awaits it there: use a plain function, or a connection of "
    "txamqp091 or txamqp091.adapters.aio"
)


class InThreads:
    """
    A handler that runs in threads: see `in_threads`.
    """

    def __init__(self, function: Callable[..., object], size: int, name: str) -> None:
        check_plain(function, "in_threads")
        self._function = function
        self._size = size
        self._name = name
        self._context = copy_context()
        self._runner: ThreadRunner | None = None
        self._released = local()

    def __call__(self, delivery: Delivery) -> Deferred[Any]:
        """
        Handle a delivery, in a thread.  For the connection's thread.
        """
        return self.run(delivery, delivery)

    def run(self, delivery: Delivery, *arguments: object) -> Deferred[Any]:
        """
        Call the function in a thread, for a delivery.
        """
        runner = self._runner
        if runner is None:
            reactor = cast(IReactorFromThreads, delivery.settler.reactor)
            runner = ThreadRunner(reactor, self._size, self._name)
            self._runner = runner
        # A copy each: one context is for one thread at a time.
        return self._context.copy().run(
            runner.run, self._called, arguments, partial(_is_ours, delivery)
        )

    def _called(self, arguments: tuple[object, ...]) -> None:
        if not getattr(self._released, "done", False):
            # The loop that has started this thread may hold signals back; a process
            # that the function starts must not.
            release_signals()
            self._released.done = True
        check_ended(self._function(*arguments), self._function, "in_threads")

    def stop(self) -> None:
        """
        End the threads, each when it has nothing more to do.
        """
        if self._runner is not None:
            self._runner.stop()


def _is_ours(delivery: Delivery) -> bool:
    """
    Whether a delivery that has waited for a thread is still to be handled.
    """
    return not (delivery.settled or delivery.is_stale)


def in_threads(
    function: Callable[..., object], size: int = 10, name: str = "txamqp091"
) -> InThreads:
    """
    Make a handler of a function that blocks.  The function runs in one of so many
    threads, with the context variables of the caller of `in_threads`, and settles its
    delivery there::

        await channel.basic_consume("work", in_threads(work, 4))

    A delivery whose channel ends before a thread is free is not handled: the broker
    delivers the message again.

    When the function fails, the delivery is treated as that of any handler that fails:
    see `txamqp091.consumer.Consumer`.  The handler is for one connection.

    :param function: a plain function; what it returns is ignored.
    :param size: how many calls may run at a time; more of them wait.  The prefetch
        limit of the consumer bounds how many wait.
    :param name: what the threads are called.
    :raises TypeError: the function is a coroutine function or a generator function,
        which a thread cannot run.
    """
    return InThreads(function, size, name)
