# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking -*-
"""
For programs without a loop: a connection whose every call waits for its answer.

The names, the order of arguments and what handlers are called with are pika's, so that
``import txamqp091.adapters.blocking as pika`` runs many a program; the verbs are
`txamqp091.channel.Channel`'s.  Who turns the loop is in `txamqp091.adapters._driver`.

Theory.  The loop turns while a call waits, and handlers are called when it does not:
by `BlockingConnection.process_data_events` and what is made of it.  So a handler may
call whatever it likes.  Until then deliveries are kept where an iterator would keep
them, and back-pressure is what it is there.
"""

from __future__ import annotations

__all__ = [
    "BasicProperties",
    "BlockingChannel",
    "BlockingConnection",
    "ConnectionParameters",
    "DeliveryMode",
    "Frame",
    "PlainCredentials",
    "URLParameters",
    "exceptions",
    "in_threads",
]

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from time import monotonic
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from txamqp091 import parameters as settings
from txamqp091.adapters._driver import Driver, ThreadDriver
from txamqp091.adapters._pika import (
    BasicProperties,
    ConnectionParameters,
    DeliveryMode,
    PlainCredentials,
    URLParameters,
    exceptions,
)
from txamqp091.adapters._selector import SelectorEndpoint, SelectorLoop
from txamqp091.adapters.threads import InThreads, ThreadsafeChannel, in_threads
from txamqp091.channel import Arguments, Channel
from txamqp091.consumer import Consumer, Deliveries
from txamqp091.endpoint import connect
from txamqp091.errors import AMQPError, ConnectionClosed, LocalProtocolError
from txamqp091.interfaces import ICredentials
from txamqp091.message import Delivery, Message, Settler
from txamqp091.protocol import AMQPProtocol
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties

P = ParamSpec("P")
T = TypeVar("T")

Reply = TypeVar("Reply", bound=Method)

#: What takes a delivery: called with the channel, the delivery (pika says ``method``),
#: its properties and its body.
Callback = Callable[["BlockingChannel", Delivery, Properties, bytes], object]

#: A delivery, its properties and its body; or three times None.
Item = tuple[Delivery, Properties, bytes] | tuple[None, None, None]

_One = settings.ConnectionParameters | str | bytes

#: How long a Ctrl-C lets the connection be closed in order, in seconds.
_GOODBYE = 1.0


class BlockingConnection:
    """
    A connection to a broker.  ``with`` closes it.

    It is for one thread, the one that calls it; others may use
    `add_callback_threadsafe`, and `BlockingChannel.threadsafe`.  When a Ctrl-C ends a
    call, or a handler, the connection is closed.

    :ivar timeout: how long a call may wait, in seconds; None is without limit.  When
        the time is up it raises ``TimeoutError``, and channel and connection live on.
        `within` sets it for a few calls.
    :ivar native: the `txamqp091.protocol.AMQPProtocol`.
    """

    def __init__(
        self,
        parameters: _One | Sequence[_One] | None = None,
        *,
        credentials: ICredentials | Sequence[ICredentials] | None = None,
        timeout: float | None = None,
        background: bool = False,
    ) -> None:
        """
        Connect.

        :param parameters: a URI or `txamqp091.parameters.ConnectionParameters`, or
            several, to be tried one after the other; by default the broker on this
            machine, as guest.
        :param credentials: as whom to log in, instead of what the first says.
        :param background: whether a thread answers heartbeats, and sends what other
            threads have to say, while no call waits.
        :raises AMQPError: why the last one could not be connected to, as
            `txamqp091.endpoint.connect` has it.
        """
        candidates = _candidates(parameters)
        self.timeout = timeout
        self.native: AMQPProtocol
        self._channels: list[BlockingChannel] = []
        self._due: deque[Callable[[], object]] = deque()
        # Why channels have ended, and what has been raised.
        self._unreported: deque[AMQPError] = deque()
        self._reported: deque[BaseException] = deque(maxlen=100)
        self._gone = False
        self._dispatching = False
        self._driver = ThreadDriver() if background else Driver()
        try:
            self._connect(candidates, credentials)
        except BaseException:
            self._driver.stop()
            raise
        self._driver.interrupted = self._interrupted

    def _connect(
        self,
        candidates: list[settings.ConnectionParameters],
        credentials: ICredentials | Sequence[ICredentials] | None,
    ) -> None:
        loop = self._driver.loop
        for number, parameters in enumerate(candidates, 1):
            try:
                self.native = self._driver.ask(
                    None,
                    connect,
                    cast(IReactorTime, loop),
                    parameters,
                    credentials=credentials,
                    endpoint=SelectorEndpoint(loop, parameters),
                )
                break
            except AMQPError:
                if number == len(candidates):
                    raise
        self._driver.do(self._watch)

    def _watch(self) -> None:
        def gone(_: object) -> None:
            self._gone = True

        self.native.when_closed().addBoth(gone)

    def __repr__(self) -> str:
        return f"<BlockingConnection, {self.native!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    # -- calls ---------------------------------------------------------------------

    def _ask(
        self, verb: Callable[P, Deferred[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """
        Call a verb, and wait for its answer.
        """
        try:
            return self._driver.ask(self.timeout, verb, *args, **kwargs)
        except AMQPError as error:
            self._report(error)
            raise
        finally:
            if self._gone:
                self._driver.stop()

    def _report(self, error: BaseException) -> None:
        """
        Somebody is told of an error: so nobody else is.
        """
        self._reported.append(error)

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
    def is_open(self) -> bool:
        """
        Whether channels can be opened and used.
        """
        return self.native.is_open

    @property
    def is_closed(self) -> bool:
        """
        Whether it is over.
        """
        return not self.native.is_open

    @property
    def server_properties(self) -> dict[str, Any]:
        """
        What the broker says of itself.
        """
        return self.native.server_properties

    @property
    def blocked(self) -> str | None:
        """
        Why the broker blocks publishing, or None if it does not.
        """
        return self.native.blocked

    def channel(self, channel_number: int | None = None) -> BlockingChannel:
        """
        Open a channel.

        :param channel_number: None; the connection gives the numbers.
        """
        if channel_number is not None:
            raise LocalProtocolError("the number of a channel is not to be chosen")
        settler = Settler if self._driver.turns_by_itself else FlushingSettler
        native = self._ask(self.native.open_channel, settler=settler)
        channel = BlockingChannel(self, native)
        self._channels.append(channel)
        self._driver.do(self._attend, channel)
        return channel

    def _attend(self, channel: BlockingChannel) -> None:
        def ended(failure: Failure | None) -> None:
            self._channels.remove(channel)
            reason = failure and failure.value
            # The connection's reason is told by the connection.
            if isinstance(reason, AMQPError) and reason is not self.native.close_reason:
                self._unreported.append(reason)

        channel.native.when_closed().addBoth(ended)

    def close(self, reply_code: int = 200, reply_text: str = "") -> None:
        """
        Close the connection, if it is not closed.
        """
        self._ask(self.native.close, reply_code, reply_text)

    def update_secret(
        self, new_secret: str | bytes, reason: str = ""
    ) -> spec.ConnectionUpdateSecretOk:
        """
        See `txamqp091.protocol.AMQPProtocol.update_secret`.
        """
        return self._ask(self.native.update_secret, new_secret, reason)

    def wait_until_unblocked(self) -> None:
        """
        Wait until the broker does not block publishing.
        """
        self._ask(self.native.when_unblocked)

    def observe_blocked(self, observer: Callable[[str | None], object]) -> None:
        """
        Have a function called, as other handlers are, when the broker blocks
        publishing, with its reason, and when it goes on, with None.
        """
        self._driver.do(
            self.native.observe_blocked,
            lambda reason: self._due.append(partial(observer, reason)),
        )

    def _interrupted(self) -> None:
        """
        A Ctrl-C, or its like, has ended a call.
        """
        try:
            self._driver.ask(_GOODBYE, self.native.close)
        except BaseException:
            with suppress(Exception):
                self._driver.do(cast(Any, self.native.transport).abortConnection)
        self._driver.stop()

    # -- handlers ------------------------------------------------------------------

    def process_data_events(self, time_limit: float | None = 0) -> None:
        """
        Call the handlers of what has come, or comes first.

        :param time_limit: how many seconds to wait for something to come; 0 is only
            to look, and None is without limit.
        :raises AMQPError: why the connection has ended, or why the broker has closed
            a channel, if no call has been told so.  Also what a handler raises.
        """
        with self._driver.interruptible():
            self._wait(self._has_work, time_limit)
            if self._dispatching:
                return
            self._run_due()
            for channel in list(self._channels):
                channel._dispatch()
            self._complain()

    def _has_work(self) -> bool:
        return bool(
            self._due
            or self._gone
            or self._unreported
            or any(channel._has_work() for channel in self._channels)
        )

    def _wait(self, ready: Callable[[], object], seconds: float | None) -> bool:
        """
        Wait until something is true, and tell whether it is.
        """
        with self._driver.interruptible():
            try:
                self._driver.flush()
                return bool(ready()) or self._driver.until(ready, seconds)
            finally:
                if self._gone:
                    self._driver.stop()

    def _run_due(self) -> None:
        """
        Call what timers and other threads have asked for.
        """
        if self._due and not self._dispatching:
            with self._in_dispatch():
                for _ in range(len(self._due)):
                    self._due.popleft()()

    @contextmanager
    def _in_dispatch(self) -> Iterator[None]:
        self._dispatching = True
        try:
            yield
        finally:
            self._dispatching = False

    def _complain(self) -> None:
        while self._unreported:
            error = self._unreported.popleft()
            if error not in self._reported:
                self._report(error)
                raise error.with_traceback(None)
        if self._gone:
            raise self.native.close_reason or ConnectionClosed(
                "the connection has ended"
            )

    def sleep(self, duration: float) -> None:
        """
        Do nothing but call handlers, for so many seconds.
        """
        with self._driver.interruptible():
            deadline = monotonic() + duration
            while True:
                left = deadline - monotonic()
                self.process_data_events(max(left, 0))
                if left <= 0:
                    return
                if self._dispatching:  # handlers wait, and we do too
                    self._wait(lambda: self._gone, left)
                    return

    def call_later(self, delay: float, callback: Callable[[], object]) -> object:
        """
        Have a function called in so many seconds, or somewhat later: handlers are
        called only while the program waits for them.

        :returns: what `remove_timeout` takes.
        """
        _check_callable(callback)
        loop = self._driver.loop
        return self._driver.do(loop.callLater, delay, self._due.append, callback)

    def remove_timeout(self, timeout_id: object) -> None:
        """
        Undo `call_later`, if it is not too late.
        """
        call = cast(IDelayedCall, timeout_id)
        with suppress(Exception):
            self._driver.do(call.cancel)

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        """
        Have a function called by the connection's thread, from any other, the next
        time that it waits for handlers.  What the function raises is raised there.

        :raises ConnectionClosed: it is over, and nobody will wait.
        """
        _check_callable(callback)
        if not self.native.is_open:
            raise self.native.close_reason or ConnectionClosed(
                "the connection is closing"
            )
        self._driver.loop.callFromThread(self._due.append, callback)


class Frame(Generic[Reply]):
    """
    An answer of the broker's, whose fields can be read of it, or, as in pika, of its
    ``method``.

    :ivar method: the method of `txamqp091.wire.spec`.
    """

    __slots__ = ("method",)

    def __init__(self, method: Reply) -> None:
        self.method = method

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def __repr__(self) -> str:
        return f"<Frame {self.method!r}>"


def _waited(
    verb: Callable[Concatenate[Channel, P], Deferred[T]],
) -> Callable[Concatenate[BlockingChannel, P], T]:
    """
    A verb that waits.
    """

    @wraps(verb)
    def ask(self: BlockingChannel, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.connection._ask(verb, self.native, *args, **kwargs)

    return ask


def _framed(
    verb: Callable[Concatenate[Channel, P], Deferred[Reply]],
) -> Callable[Concatenate[BlockingChannel, P], Frame[Reply]]:
    """
    A verb that waits for a method.
    """

    @wraps(verb)
    def ask(
        self: BlockingChannel, /, *args: P.args, **kwargs: P.kwargs
    ) -> Frame[Reply]:
        return Frame(self.connection._ask(verb, self.native, *args, **kwargs))

    return ask


class FlushingSettler(Settler):
    """
    Sends the answer for a delivery at once: there may be no next turn for long.
    """

    __slots__ = ("_loop",)

    def __init__(self, machine: Any, reactor: object) -> None:
        super().__init__(machine, reactor)
        self._loop = cast(SelectorLoop, reactor)

    def send(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        """
        See `Settler.send`.
        """
        super().send(method, delivery_tag, bits)
        self._loop.flush()


class _Subscription:
    """
    A consumer, and the callback that it is for.

    :ivar deliveries: what has come; None if a thread takes it at once.
    :ivar end: why there are no more deliveries, once that is so.
    """

    def __init__(
        self, callback: Callback, consumer: Consumer, deliveries: Deliveries | None
    ) -> None:
        self.callback = callback
        self.consumer = consumer
        self.deliveries = deliveries
        self.end: BaseException | None = None
        consumer.when_ended().addErrback(self._ended)

    def _ended(self, failure: Failure) -> None:
        self.end = failure.value

    @property
    def waiting(self) -> int:
        return 0 if self.deliveries is None else self.deliveries.buffered


class BlockingChannel:
    """
    A channel; made by `BlockingConnection.channel`.  ``with`` closes it.

    The verbs are those of `txamqp091.channel.Channel`, and wait for their answer.
    What they raise is what its Deferreds fail with, or ``TimeoutError``.

    :ivar connection: its connection.
    :ivar native: the `txamqp091.channel.Channel`.
    """

    def __init__(self, connection: BlockingConnection, native: Channel) -> None:
        self.connection = connection
        self.native = native
        self._driver = connection._driver
        self._subscriptions: dict[str, _Subscription] = {}
        self._iterated: tuple[tuple[str, bool, bool], Deliveries] | None = None

    def __repr__(self) -> str:
        return f"<BlockingChannel, {self.native!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    @property
    def channel_number(self) -> int:
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
    def is_closed(self) -> bool:
        """
        Whether it is over.
        """
        return not self.native.is_open

    @property
    def threadsafe(self) -> ThreadsafeChannel:
        """
        The channel for other threads: each verb returns a Future.  They are dealt
        with while a call of the connection's thread waits, or, with ``background``,
        at once.
        """
        return ThreadsafeChannel(self.native)

    # -- verbs ---------------------------------------------------------------------

    close = _waited(Channel.close)
    exchange_declare = _framed(Channel.exchange_declare)
    exchange_delete = _framed(Channel.exchange_delete)
    exchange_bind = _framed(Channel.exchange_bind)
    exchange_unbind = _framed(Channel.exchange_unbind)
    queue_declare = _framed(Channel.queue_declare)
    queue_bind = _framed(Channel.queue_bind)
    queue_unbind = _framed(Channel.queue_unbind)
    queue_purge = _framed(Channel.queue_purge)
    queue_delete = _framed(Channel.queue_delete)
    basic_publish = _waited(Channel.basic_publish)
    confirm_select = _framed(Channel.confirm_select)
    basic_qos = _framed(Channel.basic_qos)
    basic_ack = _waited(Channel.basic_ack)
    basic_nack = _waited(Channel.basic_nack)
    basic_reject = _waited(Channel.basic_reject)
    basic_recover = _framed(Channel.basic_recover)
    basic_recover_async = _waited(Channel.basic_recover_async)
    tx_select = _framed(Channel.tx_select)
    tx_commit = _framed(Channel.tx_commit)
    tx_rollback = _framed(Channel.tx_rollback)
    flow = _framed(Channel.flow)
    flush = _waited(Channel.flush)
    access_request = _framed(Channel.access_request)

    def publish_many(self, messages: Iterable[Message]) -> None:
        """
        See `txamqp091.channel.Channel.publish_many`.
        """
        self.connection._ask(self.native.publish_many, messages)

    def confirm_delivery(self) -> None:
        """
        Enter confirm mode: from now on `basic_publish` returns when the broker has
        the message, and raises `Nacked` or `Returned` if it has not.
        """
        self.confirm_select()

    def observe_returns(
        self, listener: Callable[[Message], object]
    ) -> Callable[[], None]:
        """
        Have a function called, as other callbacks are, with each mandatory message that
        comes back.

        :returns: call this to end it.
        """
        due = self.connection._due
        return self._driver.do(
            self.native.observe_returns,
            lambda message: due.append(partial(listener, message)),
        )

    def basic_get(self, queue: str, auto_ack: bool = False) -> Item:
        """
        Fetch one message.

        :returns: a `Delivery`, its properties and its body; three times None if the
            queue is empty.
        """
        delivery = self.connection._ask(self.native.basic_get, queue, auto_ack)
        if delivery is None:
            return None, None, None
        return delivery, delivery.properties, delivery.body

    # -- consumers with callbacks ----------------------------------------------------

    def basic_consume(
        self,
        queue: str,
        on_message_callback: Callback | InThreads,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Arguments | None = None,
    ) -> str:
        """
        Have the messages of a queue given to a function, once `start_consuming`, or
        `BlockingConnection.process_data_events`, is called.

        :param on_message_callback: called with this channel, the `Delivery`, its
            properties and its body.  What it raises is raised by whoever called it,
            and the delivery stays unacknowledged.  If it is made by `in_threads` it
            is called at once, in a thread, and is to acknowledge by the delivery.
        :returns: the consumer tag.
        """
        if not callable(on_message_callback):
            raise TypeError(f"a callback is a function, not {on_message_callback!r}")
        subscribe = self._subscribe
        if isinstance(on_message_callback, InThreads):
            subscribe = self._subscribe_threads
        subscription = self.connection._ask(
            subscribe,
            queue,
            on_message_callback,
            auto_ack,
            exclusive,
            consumer_tag or "",
            arguments,
        )
        tag = subscription.consumer.consumer_tag
        self._subscriptions[tag] = subscription
        return tag

    def _subscribe(
        self,
        queue: str,
        callback: Any,
        auto_ack: bool,
        exclusive: bool,
        tag: str,
        arguments: Arguments | None,
    ) -> Deferred[_Subscription]:
        started = self.native.consume(
            queue,
            auto_ack=auto_ack,
            exclusive=exclusive,
            arguments=arguments,
            consumer_tag=tag,
        )
        return started.addCallback(
            lambda deliveries: _Subscription(callback, deliveries.consumer, deliveries)
        )

    def _subscribe_threads(
        self,
        queue: str,
        callback: Any,
        auto_ack: bool,
        exclusive: bool,
        tag: str,
        arguments: Arguments | None,
    ) -> Deferred[_Subscription]:
        def handle(delivery: Delivery) -> Deferred[Any]:
            properties, body = delivery.properties, delivery.body
            return callback.run(  # type: ignore[no-any-return]
                delivery, self, delivery, properties, body
            )

        started = self.native.basic_consume(
            queue,
            handle,
            auto_ack,
            exclusive,
            tag,
            arguments,
        )
        return started.addCallback(
            lambda consumer: _Subscription(callback, consumer, None)
        )

    def basic_cancel(self, consumer_tag: str) -> list[Item]:
        """
        End a consumer.  What its callback was not called with goes back to the queue.

        :returns: with ``auto_ack``, when nothing goes back, the deliveries that the
            callback was not called with.
        """
        subscription = self._subscriptions.pop(consumer_tag, None)
        if subscription is None:
            self.connection._ask(self.native.basic_cancel, consumer_tag)
            return []
        deliveries = subscription.deliveries
        ending = subscription.consumer if deliveries is None else deliveries
        self.connection._ask(ending.cancel)
        left: list[Item] = []
        while deliveries is not None and deliveries.buffered:
            delivery = self._driver.do(deliveries.take_now)
            left.append((delivery, delivery.properties, delivery.body))
        return left

    @property
    def consumer_tags(self) -> list[str]:
        """
        The consumers that have callbacks.
        """
        return list(self._subscriptions)

    def start_consuming(self) -> None:
        """
        Call callbacks, until `stop_consuming` ends the last consumer.

        :raises ConsumerCancelled: the broker has ended one.
        :raises LocalProtocolError: it is called by a callback.
        """
        if self.connection._dispatching:
            raise LocalProtocolError("start_consuming was called by a handler")
        with self.connection._driver.interruptible():
            while self._subscriptions:
                self.connection.process_data_events(None)

    def stop_consuming(self, consumer_tag: str | None = None) -> None:
        """
        End a consumer, or all: as `basic_cancel`.  If the channel has ended, they
        have, too.
        """
        if self.is_closed:
            self._subscriptions.clear()
        for tag in [consumer_tag] if consumer_tag else self.consumer_tags:
            self.basic_cancel(tag)

    def _has_work(self) -> bool:
        return any(
            each.waiting or each.end is not None
            for each in self._subscriptions.values()
        )

    def _dispatch(self) -> None:
        """
        Call callbacks with what has come by now.
        """
        connection = self.connection
        for tag, subscription in list(self._subscriptions.items()):
            for _ in range(subscription.waiting):
                # A callback may have ended this consumer, or others.
                if self._subscriptions.get(tag) is not subscription:
                    break
                assert subscription.deliveries is not None
                if not subscription.waiting:
                    break
                delivery = self._driver.do(subscription.deliveries.take_now)
                with connection._in_dispatch():
                    subscription.callback(
                        self, delivery, delivery.properties, delivery.body
                    )
                self._driver.flush()
            if subscription.end is not None and not subscription.waiting:
                if self._subscriptions.pop(tag, None) is not None:
                    self._raise_end(subscription.end)

    def _raise_end(self, end: BaseException) -> None:
        # Why the channel or the connection has ended is told by the connection.
        if self.native.is_open:
            raise end.with_traceback(None)

    # -- a consumer to iterate over --------------------------------------------------

    def consume(
        self,
        queue: str,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments | None = None,
        inactivity_timeout: float | None = None,
        consumer_tag: str | None = None,
        *,
        end_quietly: bool = False,
    ) -> Generator[Item, None, None]:
        """
        Iterate over the messages of a queue.  Nothing is sent before the first one is
        asked for.  To leave the loop does not end the consumer: `cancel` does, and
        until then calling this again goes on where it was left.

        :param inactivity_timeout: after so many seconds without a message, three times
            None is what the iterator gives.
        :param end_quietly: whether the iteration just ends when the broker ends the
            consumer, as pika's does.
        :returns: a `Delivery`, its properties and its body, at a time.  It ends after
            `cancel`, and raises `ConsumerCancelled` when the broker ends the consumer,
            and the channel's or the connection's reason when that ends.
        :raises ValueError: another iteration is not ended.
        """
        connection = self.connection
        key = (queue, auto_ack, exclusive)
        if self._iterated is None:
            deliveries = connection._ask(
                self.native.consume,
                queue,
                auto_ack=auto_ack,
                exclusive=exclusive,
                arguments=arguments,
                consumer_tag=consumer_tag or "",
            )
            self._iterated = key, deliveries
        elif self._iterated[0] != key:
            raise ValueError(
                f"the consumer of {self._iterated[0][0]!r} is not ended: "
                "cancel() does that"
            )
        deliveries = self._iterated[1]

        def ready() -> bool:
            return bool(
                deliveries.buffered
                or deliveries.ended is not None
                or (connection._due and not connection._dispatching)
            )

        while True:
            in_time = connection._wait(ready, inactivity_timeout)
            connection._run_due()
            if deliveries.buffered:
                delivery = self._driver.do(deliveries.take_now)
                yield delivery, delivery.properties, delivery.body
            elif deliveries.ended is not None:
                break
            elif not in_time:
                yield None, None, None
        end = deliveries.ended
        if self._iterated is not None and self._iterated[1] is deliveries:
            self._iterated = None
        if isinstance(end, AMQPError):
            connection._report(end)
            if self.is_closed or not end_quietly:
                raise end.with_traceback(None)

    def cancel(self) -> int:
        """
        End the consumer of `consume`.

        :returns: how many messages have gone back to the queue: those that had come
            and were not iterated over.  With ``auto_ack`` none does, and the iterator
            has them still.
        """
        if self._iterated is None:
            return 0
        deliveries = self._iterated[1]
        self._iterated = None
        return self.connection._ask(deliveries.cancel)

    def get_waiting_message_count(self) -> int:
        """
        How many messages have come that `consume` has not given yet.
        """
        return 0 if self._iterated is None else self._iterated[1].buffered


def _check_callable(callback: object) -> None:
    if not callable(callback):
        raise TypeError(f"a callback is a function, not {callback!r}")


def _candidates(
    parameters: _One | Sequence[_One] | None,
) -> list[settings.ConnectionParameters]:
    """
    What to connect to, in order.
    """
    if parameters is None:
        return [settings.ConnectionParameters()]
    several: Sequence[_One]
    if isinstance(parameters, str | bytes | settings.ConnectionParameters):
        several = [parameters]
    else:
        several = list(parameters)
    if not several:
        raise ValueError("there are no parameters to connect by")
    return [
        each
        if isinstance(each, settings.ConnectionParameters)
        else settings.ConnectionParameters.from_uri(each)
        for each in several
    ]
