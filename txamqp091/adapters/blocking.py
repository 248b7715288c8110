# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking -*-
"""
Connections and channels for programs without a loop: every call waits for its answer.

The verbs are `txamqp091.channel.Channel`'s; `txamqp091.adapters._driver` turns the
loop.

Theory.  The loop turns while a call waits.  Handlers are called by
`BlockingConnection.process_data_events`, by what is made of it, and by iterators that
wait: never by other calls, so a handler may call whatever it likes.  Until then
deliveries stay where an iterator would keep them, with the same back-pressure.

The loop knows the connection, its channels and the program's functions by weak
references only.  So a connection that the program has forgotten is collected, also when
a thread turns its loop.
"""

from __future__ import annotations

__all__ = [
    "BlockingChannel",
    "BlockingConnection",
    "Deliveries",
    "Subscription",
    "Timer",
    "in_threads",
]

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from ssl import SSLContext
from threading import Lock, get_ident
from time import monotonic
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast
from weakref import WeakSet, ref

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from txamqp091 import consumer as consumers
from txamqp091.adapters._driver import Driver, ThreadDriver
from txamqp091.adapters._selector import SelectorEndpoint, SelectorLoop
from txamqp091.adapters._ssl import secured
from txamqp091.adapters.threads import (
    InThreads,
    ThreadsafeChannel,
    check_ended,
    check_plain,
    in_threads,
)
from txamqp091.channel import Arguments, Channel
from txamqp091.endpoint import connect
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    LocalProtocolError,
)
from txamqp091.interfaces import AnyCredentials
from txamqp091.message import Delivery, Message, Settler
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.wire import spec
from txamqp091.wire.method import Method

P = ParamSpec("P")
T = TypeVar("T")

_One = ConnectionParameters | str | bytes

#: What handlers and callbacks are checked for.
_WHERE = "a blocking connection"


class BlockingConnection:
    """
    A connection to a broker.  ``with`` closes it.

    One thread at a time uses it; a call of another thread meanwhile raises
    `LocalProtocolError`, and sends nothing.  Other threads have
    `add_callback_threadsafe` and `BlockingChannel.threadsafe`.  When a Ctrl-C ends a
    call, or a handler, the connection is closed.

    An exception that a signal handler raises ends the call, and is raised by it.  If
    it interrupts the connection's own work, during which signals are held back as far
    as that is possible, the connection is dropped: its state is not known then.

    :ivar timeout: how long a call may wait, in seconds; None is without limit.  When
        the time is up the call raises ``TimeoutError``, and channel and connection live
        on.  `within` sets it for a few calls.
    :ivar native: the `txamqp091.protocol.AMQPProtocol`.
    """

    def __init__(
        self,
        parameters: _One | Sequence[_One] | None = None,
        *,
        credentials: AnyCredentials | Sequence[AnyCredentials] | None = None,
        timeout: float | None = None,
        background: bool = False,
        ssl_context: SSLContext | None = None,
    ) -> None:
        """
        Connect.

        :param parameters: a URI or `txamqp091.parameters.ConnectionParameters`, or
            several, to be tried one after the other; by default the broker on this
            machine, as guest.
        :param credentials: the credentials to log in with, in place of those of the
            parameters.
        :param background: whether a thread answers heartbeats, and sends what other
            threads have to say, while no call waits.
        :param ssl_context: does TLS, in place of what the parameters say of
            certificates; the URI is ``amqps://`` nevertheless.  Unless the context
            itself does not check the broker's host name, the name is checked twice, as
            always.
        :raises AMQPError: why the last one could not be connected to, as
            `txamqp091.endpoint.connect` has it.
        """
        candidates = [secured(each, ssl_context) for each in _candidates(parameters)]
        self.timeout = timeout
        self.native: AMQPProtocol
        self._channels: list[BlockingChannel] = []
        # Handlers to call, with their arguments; and what calls `happened` of them.
        self._due: deque[Callable[[], object]] = deque()
        self._held: set[_Held] = set()
        # Why channels have ended, and what has been raised.
        self._unreported: deque[AMQPError] = deque()
        self._reported: WeakSet[BaseException] = WeakSet()
        # Whether a thread calls handlers, and which one is in a handler.
        self._dispatch = Lock()
        self._handling: int | None = None
        self._driver = ThreadDriver() if background else Driver()
        try:
            self.native = self._connect(candidates, credentials)
            self._driver.watch(self.native)
        except BaseException:
            self._driver.stop()
            raise

    def _connect(
        self,
        candidates: list[tuple[ConnectionParameters, SSLContext | None]],
        credentials: AnyCredentials | Sequence[AnyCredentials] | None,
    ) -> AMQPProtocol:
        loop = self._driver.loop
        for each in candidates[:-1]:
            with suppress(AMQPError):
                return self._connect([each], credentials)
        parameters, context = candidates[-1]
        return self._driver.ask(
            None,
            connect,
            cast(IReactorTime, loop),
            parameters,
            credentials=credentials,
            endpoint=SelectorEndpoint(loop, parameters, context),
        )

    def __repr__(self) -> str:
        return f"<BlockingConnection, {self.native!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def __del__(self) -> None:
        native = self.__dict__.get("native")
        if native is None or self._driver.loop.stopped:
            return
        if self._driver.loop.forked:
            self._driver.stop()
            return
        if native.is_open:
            warnings.warn(
                f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self
            )
        self._driver.abandon()

    # -- calls ---------------------------------------------------------------------

    def ask(
        self, verb: Callable[P, Deferred[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """
        Call a function that returns a Deferred, such as a method of `native`, and wait
        for that.

        :returns: what the Deferred fires with.  This raises what it fails with, or
            ``TimeoutError`` after `timeout`, when the Deferred is cancelled.
        """
        try:
            return self._driver.ask(self.timeout, verb, *args, **kwargs)
        except AMQPError as error:
            self._report(error)
            raise
        finally:
            if self._driver.gone:
                self._driver.stop()

    def wait_until(
        self, ready: Callable[[], object], seconds: float | None = None
    ) -> bool:
        """
        Wait until a function returns something true.  It is called at each turn of the
        loop; handlers are not called.

        :param seconds: for how long at the most; None is without limit.
        :returns: whether it is true; False, too, when the connection ends first.
        """
        with self._driver.held():
            try:
                self._driver.flush()
                return bool(ready()) or self._driver.until(ready, seconds)
            finally:
                if self._driver.gone:
                    self._driver.stop()

    def _report(self, error: BaseException) -> None:
        """
        Remember that the program was told of an error.
        """
        self._reported.add(error)

    @contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """
        Let the calls of a ``with`` block wait so long each, and not longer::

            with connection.within(2.0):
                channel.queue_declare("work")
        """
        before, self.timeout = self.timeout, seconds
        try:
            yield
        finally:
            self.timeout = before

    # -- the connection ------------------------------------------------------------

    @property
    def parameters(self) -> ConnectionParameters:
        """
        The parameters that the connection was made with.
        """
        return self.native.parameters

    @property
    def is_open(self) -> bool:
        """
        Whether channels can be opened and used.
        """
        return self.native.is_open

    @property
    def server_properties(self) -> dict[str, Any]:
        """
        The properties that the broker has sent about itself.
        """
        return self.native.server_properties

    @property
    def blocked(self) -> str | None:
        """
        Why the broker blocks publishing, or None if it does not.
        """
        return self.native.blocked

    def channel(self, number: int | None = None) -> BlockingChannel:
        """
        Open a channel.

        :param number: the channel's number; None is the next free one.
        """
        settler = Settler if self._driver.turns_by_itself else _FlushingSettler
        native = self.ask(self.native.open_channel, settler=settler, number=number)
        channel = BlockingChannel(self, native)
        self._channels.append(channel)
        ended = partial(_channel_ended, ref(channel))
        self._driver.do(lambda: native.when_closed().addBoth(ended))
        return channel

    def close(self, reply_code: int = 200, reply_text: str = "") -> None:
        """
        Close the connection, if it is not closed.  In a child of the process that made
        it, the child's copy of the socket is closed, and nothing is sent.
        """
        if self._driver.loop.forked:
            self._driver.stop()
        else:
            self.ask(self.native.close, reply_code, reply_text)

    def update_secret(
        self, secret: str | bytes, reason: str = ""
    ) -> spec.ConnectionUpdateSecretOk:
        """
        Give the broker a new secret, as
        `txamqp091.protocol.AMQPProtocol.update_secret`.
        """
        return self.ask(self.native.update_secret, secret, reason)

    def when_unblocked(self) -> None:
        """
        Wait until the broker does not block publishing.
        """
        self.ask(self.native.when_unblocked)

    def observe_blocked(
        self, observer: Callable[[str | None], object]
    ) -> Callable[[], None]:
        """
        Call a function, as other handlers are called, when the broker blocks
        publishing, with the broker's reason, and when the broker stops, with None.

        :returns: ends the observation when it is called; calling it again is harmless.
        """
        check_plain(observer, _WHERE)
        held = _Held(self, observer)
        stop = self._driver.do(self.native.observe_blocked, held.weakly())
        return partial(self._undo, held, stop)

    def _undo(self, held: _Held, stop: Callable[[], None]) -> None:
        held.release()
        if not self._driver.gone:
            self._driver.do(stop)

    # -- handlers ------------------------------------------------------------------

    @property
    def in_handler(self) -> bool:
        """
        Whether this thread is in a handler.
        """
        return self._handling == get_ident()

    def process_data_events(self, time_limit: float | None = 0) -> None:
        """
        Call the handlers of what has come, or comes first.  In a handler, this waits
        for the time limit, answers heartbeats, and calls no handler.

        :param time_limit: how many seconds to wait for something to come; 0 is only
            to look, and None is without limit.
        :raises AMQPError: why the connection has ended, or why the broker has closed
            a channel, if no call has been told so.  Also what a handler raises.
        :raises LocalProtocolError: in a handler without a time limit: the wait would
            never end.
        """
        self._process(time_limit, bool)

    def _process(self, time_limit: float | None, over: Callable[[], object]) -> None:
        """
        :param over: tells whether there is nothing left to wait for.
        """
        with self._driver.held():
            gone = self._driver.gone
            if self.in_handler:
                if time_limit is None:
                    raise LocalProtocolError(
                        "process_data_events without a time limit was called by a "
                        "handler: it would wait for ever"
                    )
                self.wait_until(lambda: self._driver.gone, time_limit)
                self._raise_end(gone)
                return
            self.wait_until(lambda: over() or self._has_work(), time_limit)
            self._call_handlers()
            for channel in list(self._channels):
                channel._end_subscriptions()
            while self._unreported:
                error = self._unreported.popleft()
                if error not in self._reported:
                    self._report(error)
                    raise error.with_traceback(None)
            self._raise_end(gone)

    def _has_work(self) -> bool:
        return bool(
            self._driver.gone
            or self._unreported
            or self._has_handlers()
            or any(channel._has_ends() for channel in self._channels)
        )

    def _has_handlers(self) -> bool:
        return bool(
            self._due or any(channel._has_deliveries() for channel in self._channels)
        )

    def _call_handlers(self) -> None:
        """
        Call the handlers of what has come by now.
        """
        if not self._dispatch.acquire(blocking=False):
            raise LocalProtocolError("another thread is calling the handlers")
        try:
            for _ in range(len(self._due)):
                self._call(self._due.popleft())
            for channel in list(self._channels):
                channel._call_handlers()
        finally:
            self._dispatch.release()

    def _call(self, handler: Callable[..., object], *args: object) -> None:
        """
        Call a handler.
        """
        self._handling = get_ident()
        try:
            result = handler(*args)
        finally:
            self._handling = None
        check_ended(result, handler, _WHERE)

    def _raise_end(self, gone: bool) -> None:
        """
        :param gone: whether the connection had ended before this call.
        :raises AMQPError: why it has; but not that this call has closed it.
        """
        if self._driver.gone:
            reason = self._driver.reason or ConnectionClosed("it has ended")
            if gone or not _by_us(reason):
                raise reason

    def sleep(self, duration: float) -> None:
        """
        Do nothing but call handlers, for so many seconds.

        :raises AMQPError: as `process_data_events` does.
        """
        with self._driver.held():
            deadline = monotonic() + duration
            while True:
                left = deadline - monotonic()
                self.process_data_events(max(left, 0))
                if left <= 0:
                    return

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """
        Call a function after some seconds, or later: handlers are called only while the
        program waits for them.

        :returns: the timer, which can be cancelled.
        :raises TypeError: it is not a plain function.
        """
        check_plain(callback, _WHERE)
        held = _Held(self, callback, once=True)
        driver = self._driver
        call = driver.do(driver.loop.callLater, delay, held.weakly())
        return Timer(held, call, driver)

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        """
        Call a function in the connection's thread, the next time that it waits for
        handlers.  For any thread.  What the function raises is raised by the call that
        waits.

        :raises ConnectionClosed: the connection has ended: nothing would call it.
        :raises TypeError: it is not a plain function.
        """
        check_plain(callback, _WHERE)
        if not self.native.is_open:
            raise self._driver.reason or ConnectionClosed("the connection is closing")
        self._driver.loop.callFromThread(self._due.append, callback)


class _Held:
    """
    A function of the program, which the loop refers to weakly, by this object.
    """

    def __init__(
        self,
        connection: BlockingConnection,
        function: Callable[..., object],
        once: bool = False,
    ) -> None:
        self._connection = connection
        self._function = function
        self._once = once
        connection._held.add(self)

    def weakly(self) -> Callable[..., None]:
        """
        Make a function that has the program's called as other handlers are, with the
        same arguments.
        """
        return partial(_happened, ref(self))

    def happened(self, *args: object) -> None:
        """
        Have the function called.
        """
        self._connection._due.append(partial(self.call, *args))

    def call(self, *args: object) -> object:
        """
        Call the function, unless it was released meanwhile.
        """
        function = self._function
        if self._once:
            self.release()
        return function(*args)

    def release(self) -> None:
        """
        Forget the function.
        """
        self._connection._held.discard(self)
        self._function = _nothing


def _happened(held: ref[_Held], *args: object) -> None:
    of = held()
    if of is not None:
        of.happened(*args)


def _nothing(*_: object) -> None:
    """
    Do nothing, in place of a function that was released.
    """


class Timer:
    """
    A function that will be called; made by `BlockingConnection.call_later`.
    """

    def __init__(self, held: _Held, call: IDelayedCall, driver: Driver) -> None:
        self._held = held
        self._call = call
        self._driver = driver

    def cancel(self) -> None:
        """
        Do not call the function.  Too late, or again, this is harmless.
        """
        self._held.release()
        self._driver.do(self._stop)

    def _stop(self) -> None:
        if self._call.active():
            self._call.cancel()


class _FlushingSettler(Settler):
    """
    Sends a settlement at once: there may be no next turn for long.  In another thread
    than the one that uses the connection, it is sent by that one.
    """

    __slots__ = ("_loop",)

    def __init__(self, machine: Any, reactor: object) -> None:
        self._loop = cast(SelectorLoop, reactor)
        super().__init__(machine, reactor)

    @property
    def thread(self) -> int:
        """
        The thread that uses the connection, or was the last one that did.
        """
        return self._loop.last_user

    @thread.setter
    def thread(self, _: int) -> None:
        pass

    def send(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        try:
            self._loop.work(self._send_now, method, delivery_tag, bits)
        except LocalProtocolError:  # another thread uses the connection by now
            self._loop.callFromThread(self.send, method, delivery_tag, bits)

    def _send_now(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        super().send(method, delivery_tag, bits)
        self._loop.flush()


def _waited(
    verb: Callable[Concatenate[Channel, P], Deferred[T]],
) -> Callable[Concatenate[BlockingChannel, P], T]:
    """
    Make a method that calls a verb, and waits.
    """

    @wraps(verb)
    def ask(self: BlockingChannel, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.connection.ask(verb, self.native, *args, **kwargs)

    return ask


class BlockingChannel:
    """
    A channel; made by `BlockingConnection.channel`.  ``with`` closes it.

    The verbs are those of `txamqp091.channel.Channel`, and wait for their answer.
    They raise what its Deferreds fail with, or ``TimeoutError``.

    :ivar connection: its connection.
    :ivar native: the `txamqp091.channel.Channel`.
    """

    def __init__(self, connection: BlockingConnection, native: Channel) -> None:
        self.connection = connection
        self.native = native
        self._driver = connection._driver
        self._subscriptions: dict[str, Subscription] = {}
        self._closed_by_us = False

    def __repr__(self) -> str:
        return f"<BlockingChannel, {self.native!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    @property
    def number(self) -> int:
        """
        Its number on the connection.
        """
        return self.native.number

    @property
    def is_open(self) -> bool:
        """
        Whether the channel can be used.
        """
        return self.native.is_open

    @property
    def threadsafe(self) -> ThreadsafeChannel:
        """
        The channel for other threads: each verb returns a Future.  The verbs are called
        while a call of the connection's thread waits, or, with ``background``, at once.
        """
        return _Threadsafe(self)

    # -- verbs ---------------------------------------------------------------------

    close = _waited(Channel.close)
    exchange_declare = _waited(Channel.exchange_declare)
    exchange_delete = _waited(Channel.exchange_delete)
    exchange_bind = _waited(Channel.exchange_bind)
    exchange_unbind = _waited(Channel.exchange_unbind)
    queue_declare = _waited(Channel.queue_declare)
    queue_bind = _waited(Channel.queue_bind)
    queue_unbind = _waited(Channel.queue_unbind)
    queue_purge = _waited(Channel.queue_purge)
    queue_delete = _waited(Channel.queue_delete)
    basic_publish = _waited(Channel.basic_publish)
    publish_many = _waited(Channel.publish_many)
    confirm_select = _waited(Channel.confirm_select)
    basic_get = _waited(Channel.basic_get)
    basic_qos = _waited(Channel.basic_qos)
    basic_ack = _waited(Channel.basic_ack)
    basic_nack = _waited(Channel.basic_nack)
    basic_reject = _waited(Channel.basic_reject)
    basic_recover = _waited(Channel.basic_recover)
    basic_recover_async = _waited(Channel.basic_recover_async)
    tx_select = _waited(Channel.tx_select)
    tx_commit = _waited(Channel.tx_commit)
    tx_rollback = _waited(Channel.tx_rollback)
    flow = _waited(Channel.flow)
    flush = _waited(Channel.flush)
    access_request = _waited(Channel.access_request)

    def confirm_delivery(self) -> None:
        """
        Enter confirm mode, as `confirm_select`: from now on `basic_publish` returns
        when the broker has the message, and raises `Nacked` or `Returned` if it has
        not.
        """
        self.confirm_select()

    def observe_returns(
        self, listener: Callable[[Message], object]
    ) -> Callable[[], None]:
        """
        Call a function, as other handlers are called, with each mandatory message that
        comes back.

        :returns: ends the observation when it is called; calling it again is harmless.
        """
        check_plain(listener, _WHERE)
        held = _Held(self.connection, listener)
        stop = self._driver.do(self.native.observe_returns, held.weakly())
        return partial(self.connection._undo, held, stop)

    # -- consumers with handlers -----------------------------------------------------

    def basic_consume(
        self,
        queue: str,
        handler: consumers.Handler | InThreads,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Arguments | None = None,
        *,
        prefetch: int | None = None,
        ack_on_return: bool = False,
        on_failure: consumers.OnFailure = "requeue",
    ) -> Subscription:
        """
        Consume a queue: call a function with each message, once `start_consuming`, or
        `BlockingConnection.process_data_events`, is called.

        :param handler: called with each `Delivery`.  What it raises is raised by the
            call that waits for handlers, and the delivery stays unacknowledged.  A
            handler made by `in_threads` is called at once, in a thread, and fails as on
            every loop: see `txamqp091.consumer.Consumer`.
        :param on_failure: what happens then, for a handler in threads.
        :returns: the consumer.  The other parameters are those of
            `txamqp091.channel.Channel.basic_consume`.
        :raises TypeError: the handler is a coroutine function or a generator function,
            which nothing would await.
        """
        options: dict[str, Any] = {
            "exclusive": exclusive,
            "consumer_tag": consumer_tag,
            "arguments": arguments,
            "prefetch": prefetch,
        }
        native: consumers.Consumer | consumers.Deliveries
        if isinstance(handler, InThreads):
            # It goes on for as long as there is a consumer: the loop has to hold this.
            native = self.connection.ask(
                self.native.basic_consume,
                queue,
                partial(_hand_on, self, handler),
                auto_ack,
                ack_on_return=ack_on_return,
                on_failure=on_failure,
                **options,
            )
        else:
            check_plain(handler, _WHERE)
            native = self.connection.ask(
                self.native.consume, queue, auto_ack=auto_ack, **options
            )
        subscription = Subscription(self, handler, native, ack_on_return)
        self._subscriptions[subscription.consumer_tag] = subscription
        return subscription

    def basic_cancel(
        self, consumer_tag: str, *, no_wait: bool = False
    ) -> spec.BasicCancelOk:
        """
        End a consumer, by its name: as `Subscription.cancel`, which says how many
        messages went back.
        """
        subscription = self._subscriptions.get(consumer_tag)
        if subscription is None:
            return self.connection.ask(
                self.native.basic_cancel, consumer_tag, no_wait=no_wait
            )
        subscription.cancel()
        return spec.BasicCancelOk(consumer_tag)

    def start_consuming(self) -> None:
        """
        Call handlers, until the last consumer of this channel has ended: by
        `stop_consuming`, or with the channel or the connection, when we close it.

        :raises ConsumerCancelled: the broker has ended one.
        :raises AMQPError: why the channel or the connection has ended otherwise.
        :raises LocalProtocolError: it is called by a handler.
        """
        if self.connection.in_handler:
            raise LocalProtocolError("start_consuming was called by a handler")
        with self._driver.held():
            while self._subscriptions:
                self.connection._process(None, lambda: not self._subscriptions)

    def stop_consuming(self) -> None:
        """
        End all consumers that have handlers: see `Subscription.cancel`.
        """
        for each in list(self._subscriptions.values()):
            if self.is_open:
                each.cancel()
        if not self.is_open:
            self._subscriptions.clear()
            self._driver.wake()

    def _has_deliveries(self) -> bool:
        return any(each.buffered for each in self._subscriptions.values())

    def _has_ends(self) -> bool:
        return any(each._end for each in self._subscriptions.values())

    def _call_handlers(self) -> None:
        """
        Call handlers with what has come by now.
        """
        call, driver = self.connection._call, self._driver
        for each in list(self._subscriptions.values()):
            for _ in range(each.buffered):
                # A handler may have cancelled this consumer, or closed the channel.
                if not each.buffered or self._closed_by_us:
                    break
                delivery = driver.do(cast(Any, each.native).take_now)
                call(each.handler, delivery)
                if each.ack_on_return and not delivery.settled:
                    delivery.ack()
                driver.flush()

    def _end_subscriptions(self) -> None:
        """
        Forget the consumers that have ended, and raise why the broker has ended one.
        """
        for tag, each in list(self._subscriptions.items()):
            if self._closed_by_us or (each._end and not each.buffered):
                self._subscriptions.pop(tag, None)
                end = each._end[0] if each._end else None
                # Why the channel or the connection has ended, the connection tells.
                if isinstance(end, Failure) and self.is_open:
                    assert end.value is not None
                    raise end.value.with_traceback(None)
        if not self.is_open and not self._subscriptions:
            with suppress(ValueError):
                self.connection._channels.remove(self)

    # -- a consumer to iterate over --------------------------------------------------

    def consume(
        self,
        queue: str,
        *,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments | None = None,
        prefetch: int | None = None,
        consumer_tag: str = "",
    ) -> Deliveries:
        """
        Iterate over the messages of a queue::

            with channel.consume("work") as deliveries:
                for delivery in deliveries:
                    ...
                    delivery.ack()

        The parameters are those of `txamqp091.channel.Channel.consume`.
        """
        native = self.connection.ask(
            self.native.consume,
            queue,
            auto_ack=auto_ack,
            exclusive=exclusive,
            arguments=arguments,
            prefetch=prefetch,
            consumer_tag=consumer_tag,
        )
        return Deliveries(self, native)


class _Threadsafe(ThreadsafeChannel):
    """
    A channel for other threads that keeps its connection from being collected.
    """

    def __init__(self, channel: BlockingChannel) -> None:
        super().__init__(channel.native)
        self._channel = channel


def _hand_on(_: BlockingChannel, handler: InThreads, delivery: Delivery) -> object:
    return handler(delivery)


def _channel_ended(channel: ref[BlockingChannel], outcome: Failure | None) -> None:
    """
    Note that a channel has ended, in the thread of the loop.
    """
    of = channel()
    if of is None:
        return
    connection = of.connection
    reason = None if outcome is None else outcome.value
    of._closed_by_us = reason is None or _by_us(reason)
    # The connection's reason is told by the connection.
    if isinstance(reason, AMQPError) and reason is not connection.native.close_reason:
        connection._unreported.append(reason)
        connection._driver.warn(
            "{channel!r} has ended: {reason}", channel=of, reason=reason
        )


def _by_us(reason: BaseException) -> bool:
    return type(reason) is ConnectionClosed and reason.by_us


class Subscription:
    """
    A consumer with a handler; made by `BlockingChannel.basic_consume`.

    :ivar native: the `txamqp091.consumer.Deliveries` behind it, or, for a handler in
        threads, the `txamqp091.consumer.Consumer`.
    :ivar handler: the function.
    :ivar ack_on_return: whether a delivery is acknowledged when the function returns.
    """

    def __init__(
        self,
        channel: BlockingChannel,
        handler: consumers.Handler,
        native: consumers.Consumer | consumers.Deliveries,
        ack_on_return: bool,
    ) -> None:
        self.native = native
        self.handler = handler
        self.ack_on_return = ack_on_return
        self._channel = channel
        # Why the consumer has ended, once it has; None is by us.
        self._end: list[Any] = []
        ended = self._end.append
        channel._driver.do(lambda: self._consumer.when_ended().addBoth(ended))

    def __repr__(self) -> str:
        return repr(self._consumer)

    @property
    def _consumer(self) -> consumers.Consumer:
        native = self.native
        return native if isinstance(native, consumers.Consumer) else native.consumer

    @property
    def consumer_tag(self) -> str:
        """
        Its name on its channel.
        """
        return self._consumer.consumer_tag

    @property
    def queue(self) -> str:
        """
        The queue.
        """
        return self._consumer.queue

    @property
    def is_active(self) -> bool:
        """
        Whether more deliveries can come.
        """
        return self._consumer.is_active

    @property
    def buffered(self) -> int:
        """
        How many deliveries have come that the handler was not called with yet.
        """
        native = self.native
        return 0 if isinstance(native, consumers.Consumer) else native.buffered

    def cancel(self) -> int:
        """
        End the consumer.  What its handler was not called with goes back to the queue;
        with ``auto_ack`` there is no going back, and the handler is still called with
        what had come.

        :returns: how many messages went back.
        """
        left = self._channel.connection.ask(self.native.cancel)
        if not self.buffered:
            self._channel._subscriptions.pop(self.consumer_tag, None)
            self._channel._driver.wake()
        return left


class Deliveries:
    """
    The deliveries of one consumer; made by `BlockingChannel.consume`.

    The iteration ends when it is cancelled by us.  When the broker ends the consumer
    it raises `ConsumerCancelled`, after what had come before; and when the channel or
    the connection ends, the reason of that.  While it waits, handlers are called.

    ``with`` cancels it at the end.  One that the program has forgotten is cancelled,
    too.

    :ivar native: the `txamqp091.consumer.Deliveries` behind it.
    """

    def __init__(self, channel: BlockingChannel, native: consumers.Deliveries) -> None:
        self.native = native
        self._channel = channel
        # When handlers had their turn, by the count of the loop's turns.
        self._turns = -1

    def __repr__(self) -> str:
        return f"<Deliveries, {self.native.consumer!r}>"

    @property
    def consumer_tag(self) -> str:
        """
        The consumer's name on its channel.
        """
        return self.native.consumer.consumer_tag

    @property
    def buffered(self) -> int:
        """
        How many deliveries have come that were not asked for yet.
        """
        return self.native.buffered

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delivery:
        try:
            return self.get()
        except LookupError:
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> Delivery:
        """
        Wait for the next delivery.

        :param timeout: for how many seconds; None is without limit.
        :raises TimeoutError: the time was up.
        :raises LookupError: it was cancelled by us, and is exhausted.
        """
        connection, native = self._channel.connection, self.native
        driver = connection._driver
        if native.buffered and driver.loop.turns == self._turns:
            return driver.do(self._take)  # nothing else can have come
        deadline = None if timeout is None else monotonic() + timeout
        with driver.held():
            while True:
                left = None if deadline is None else deadline - monotonic()
                connection.wait_until(self._ready, left)
                self._turns = driver.loop.turns
                if not connection.in_handler and connection._has_handlers():
                    connection._call_handlers()
                if native.buffered:
                    return driver.do(native.take_now)
                end = native.ended
                if end is None and driver.gone:
                    end = driver.reason
                if end is not None:
                    if isinstance(end, AMQPError):
                        connection._report(end)
                    raise end.with_traceback(None)
                if left is not None and left <= 0:
                    raise TimeoutError(f"no delivery has come within {timeout:g} s")

    def _take(self) -> Delivery:
        delivery = self.native.take_now()
        self._channel._driver.flush()
        return delivery

    def _ready(self) -> bool:
        connection = self._channel.connection
        return bool(
            self.native.buffered
            or self.native.ended is not None
            or (not connection.in_handler and connection._has_handlers())
        )

    def cancel(self) -> int:
        """
        End the consumer.  Deliveries that were not asked for yet go back to their
        queue; with ``auto_ack`` there is no going back, and they can still be had.

        :returns: how many messages went back.
        """
        return self._channel.connection.ask(self.native.cancel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # That it has ended otherwise is no error here: it was to end.
        with suppress(AMQPError):
            self.cancel()

    def __del__(self) -> None:
        native, loop = self.native, self._channel._driver.loop
        if native.ended is None and not loop.stopped and not loop.forked:
            loop.callFromThread(_abandon, native)


def _abandon(deliveries: consumers.Deliveries) -> None:
    deliveries.cancel().addErrback(_nothing)


def _candidates(
    parameters: _One | Sequence[_One] | None,
) -> list[ConnectionParameters]:
    """
    Tell what to connect to, in this order.
    """
    if parameters is None:
        return [ConnectionParameters()]
    several: Sequence[_One]
    if isinstance(parameters, str | bytes | ConnectionParameters):
        several = [parameters]
    else:
        several = list(parameters)
    if not several:
        raise ValueError("there are no parameters to connect by")
    return [
        each
        if isinstance(each, ConnectionParameters)
        else ConnectionParameters.from_uri(each)
        for each in several
    ]
