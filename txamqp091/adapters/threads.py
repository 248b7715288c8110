# -*- test-case-name: txamqp091.test.unit.adapters.test_threads -*-
"""
Channels and threads: verbs for other threads than the connection's, and handlers that
block.

It is for all loops alike, Twisted's too.  (`Delivery.ack` and its like need none of
this: they may be called from any thread as they are.)
"""

from __future__ import annotations

__all__ = ["InThreads", "ThreadsafeChannel", "in_threads", "threadsafe"]

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from txamqp091._threads import ThreadRunner
from txamqp091.channel import Channel
from txamqp091.message import Delivery, Message

P = ParamSpec("P")
T = TypeVar("T")


def _future(
    verb: Callable[Concatenate[Channel, P], Deferred[T]],
) -> Callable[Concatenate[ThreadsafeChannel, P], Future[T]]:
    """
    A verb, called in the connection's thread, with a Future in place of its Deferred.
    """

    @wraps(verb)
    def ask(self: ThreadsafeChannel, /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._ask(lambda: verb(self.native, *args, **kwargs))

    return ask


class ThreadsafeChannel:
    """
    A channel whose verbs may be called from any thread.

    Each returns a ``concurrent.futures.Future`` at once; cancelling that does what
    cancelling the Deferred would.  Calls from one thread are made in their order.
    Whoever waits for a Future in the connection's own thread waits for ever.

    :ivar native: the channel.
    """

    def __init__(self, native: Channel) -> None:
        self.native = native

    @property
    def is_open(self) -> bool:
        """
        Whether the channel could be used a moment ago.
        """
        return self.native.is_open

    def _ask(self, verb: Callable[[], Deferred[T]]) -> Future[T]:
        future: Future[T] = Future()
        reactor = cast(IReactorFromThreads, self.native.connection.reactor)

        def answered(result: Any) -> None:
            if future.cancelled() or not future.set_running_or_notify_cancel():
                return
            if isinstance(result, Failure):
                future.set_exception(result.value)
            else:
                future.set_result(result)

        def run() -> None:
            if future.cancelled():
                return
            deferred = verb()
            future.add_done_callback(
                lambda _: (
                    reactor.callFromThread(deferred.cancel)
                    if future.cancelled()
                    else None
                )
            )
            deferred.addBoth(answered)

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
    access_request = _future(Channel.access_request)

    def publish_many(self, messages: Iterable[Message]) -> Future[None]:
        """
        See `txamqp091.channel.Channel.publish_many`.  The messages are drawn from the
        iterable in the connection's thread.
        """
        return self._ask(lambda: self.native.publish_many(messages))


def threadsafe(channel: Channel) -> ThreadsafeChannel:
    """
    A channel of Twisted's, for other threads than the reactor's.
    """
    return ThreadsafeChannel(channel)


class InThreads:
    """
    A handler that runs in threads: see `in_threads`.
    """

    def __init__(self, function: Callable[..., object], size: int, name: str) -> None:
        self._function = function
        self._size = size
        self._name = name
        self._context = copy_context()
        self._runner: ThreadRunner | None = None

    def __call__(self, delivery: Delivery) -> Deferred[Any]:
        """
        Take a delivery, in the connection's thread.
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
        return self._context.copy().run(runner.run, self._called, arguments)

    def _called(self, arguments: tuple[object, ...]) -> object:
        return self._function(*arguments)

    def stop(self) -> None:
        """
        Let the threads end when they have nothing more to do.
        """
        if self._runner is not None:
            self._runner.stop()


def in_threads(
    function: Callable[..., object], size: int = 10, name: str = "txamqp091"
) -> InThreads:
    """
    Make a handler of a function that blocks: it runs in one of so many threads, with
    the context variables of whoever has made it, and acknowledges there::

        await channel.basic_consume("work", in_threads(work, 4))

    When it fails, the delivery becomes what it does with any handler that fails: see
    `txamqp091.consumer.Consumer`.  The handler is for one connection.

    :param size: how many calls may run at a time; more of them wait.  That is for the
        prefetch limit of the consumer to bound.
    :param name: what the threads are called.
    """
    return InThreads(function, size, name)
