# -*- test-case-name: txamqp091.test.unit.service.test_recovering_channel -*-
"""
A channel that is opened again: `RecoveringChannel`, and its `UnackedDeliveries`.

Theory.  A `RecoveringChannel` belongs to a service, which attaches it to each of its
connections, and detaches it.  While it is attached it is open, or being opened, or
waits to be: when the channel ends alone, it alone is opened again.  What is to be done
whenever there is a new channel is done by those who `observe` it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    TimeoutError,
    succeed,
)
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._channel_publisher import DEFAULT_WINDOW
from txamqp091._observer import Observers, OneShot, observe
from txamqp091.channel import Channel
from txamqp091.errors import ChannelClosed, DeliveryAckTimeout, printable
from txamqp091.message import Settler
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.broker_quirks import STEP_TIMEOUT
from txamqp091.service.retry import Backoff, RetryPolicy
from txamqp091.wire.method import Method
from txamqp091.wire.spec import BasicAck, BasicNack

_log = Logger(namespace="txamqp091.service")

#: What helps against `DeliveryAckTimeout`, for the log.
_REMEDY = "; settle each delivery within consumer_timeout, or raise that limit"

P = ParamSpec("P")
T = TypeVar("T")


def together(steps: Sequence[Deferred[Any]]) -> Deferred[None]:
    """
    A Deferred for all of many, which fails as the first that does.  When it is
    cancelled, so are they.
    """
    gathered = DeferredList(steps, fireOnOneErrback=True, consumeErrors=True)

    def first(failure: Failure) -> Failure:
        error = cast(Any, failure.value)
        found: Failure = error.subFailure if hasattr(error, "subFailure") else failure
        return found

    return gathered.addCallbacks(lambda _: None, first)


class Position:
    """
    How far a consumer has come in a stream.

    :ivar offset: where to go on: everything before it was answered for.  None, if
        nothing was delivered yet.
    """

    def __init__(self) -> None:
        self.offset: int | None = None
        self._open: dict[int, int] = {}
        self._last = 0

    def delivered(self, delivery_tag: int, offset: int) -> None:
        """
        A message came.
        """
        self._open[delivery_tag] = self._last = offset
        self._move()

    def settled(self, delivery_tag: int) -> None:
        """
        A message was answered for.
        """
        self._open.pop(delivery_tag, None)
        self._move()

    def _move(self) -> None:
        # They come in the order of their offsets.
        self.offset = next(iter(self._open.values()), self._last + 1)

    def rewind(self) -> None:
        """
        What has not been answered for will come again.
        """
        self._open.clear()


class UnackedDeliveries(Settler):
    """
    What was delivered on one channel, and was not answered for yet.  Answers that come
    after the end of the channel are counted, and go nowhere.

    :ivar open: by delivery tag: the position in a stream that waits for the answer, or
        None.
    """

    __slots__ = ("_empty", "_stale", "open")

    def __init__(
        self, machine: Any, reactor: object, stale: Callable[[], None]
    ) -> None:
        """
        :param stale: told of each answer that is too late.
        """
        super().__init__(machine, reactor)
        self.open: dict[int, Position | None] = {}
        self._stale = stale
        self._empty: list[Deferred[None]] = []

    def send(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        """
        See `Settler.send`.
        """
        machine = self.machine
        if not machine.is_open:
            self._stale()
            return
        machine.settle(method, delivery_tag, bits)
        if bits & 1 and method in (BasicAck, BasicNack):  # "multiple"
            tags = [tag for tag in self.open if tag < delivery_tag]
            for tag in tags:
                self._settled(tag)
        self._settled(delivery_tag)
        if self._empty and not self.open:
            self.finish()

    def give_back(self) -> None:
        """
        See `Settler.give_back`.
        """
        super().give_back()
        for tag in [tag for tag in self.open if tag not in self.unsettled]:
            self._settled(tag)
        if self._empty and not self.open:
            self.finish()

    def _settled(self, delivery_tag: int) -> None:
        position = self.open.pop(delivery_tag, None)
        if position is not None:
            position.settled(delivery_tag)

    def when_empty(self) -> Deferred[None]:
        """
        :returns: fires when everything was answered for, or nobody can be told.
        """
        if not self.open or not self.machine.is_open:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._empty.remove)
        self._empty.append(waiting)
        return waiting

    def finish(self) -> None:
        """
        There is nothing open any more.
        """
        empty, self._empty = self._empty, []
        for waiting in empty:
            waiting.callback(None)


def _verb(
    verb: Callable[Concatenate[Channel, P], Deferred[T]],
) -> Callable[Concatenate[RecoveringChannel, P], Deferred[T]]:
    """
    A verb of `Channel` as one of `RecoveringChannel`.
    """

    @wraps(verb)
    def call(
        self: RecoveringChannel, /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        return self.call(verb, *args, **kwargs)

    return call


class RecoveringChannel:
    """
    A channel of a service, the same object over all reconnects; made by
    `AMQPClientService.channel`.  It comes back with its prefetch limit, in confirm
    mode and in transaction mode as it was.

    It has the verbs of `txamqp091.channel.Channel`, except those that belong to one
    channel only: its modes are arguments of `AMQPClientService.channel`, and consumers
    are made by `AMQPClientService.consume`::

        await channel.basic_publish("", "work", b"x")

    A call waits until there is a channel.  When that ends before the answer has come,
    the call fails with the reason; the caller decides whether to repeat it.

    :ivar reactor: the reactor.
    :ivar policy: when the channel is opened again.
    :ivar channel: the present channel; None while there is none.
    :ivar error: why the last one has ended, or could not be opened.
    :ivar opened: how many there have been.
    :ivar stale: how many answers for deliveries came when their channel had gone.  They
        do no harm: the broker delivers those messages again.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        policy: RetryPolicy,
        forget: Callable[[RecoveringChannel], object],
        *,
        confirm: bool = False,
        window: int = DEFAULT_WINDOW,
        prefetch: int | None = None,
        tx: bool = False,
        join_acks: bool = False,
    ) -> None:
        self.channel: Channel | None = None
        self.error: BaseException | None = None
        self.opened = 0
        self.stale = 0
        self.reactor = reactor
        self.policy = policy
        self._forget = forget
        self._confirm = confirm
        self._window = window
        self._prefetch = prefetch
        self._tx = tx
        self._join_acks = join_acks
        self._backoff = Backoff(policy)
        self._connection: AMQPProtocol | None = None
        self._opening: Deferred[None] | None = None
        self._call: IDelayedCall | None = None
        self._closed = False
        self._open: OneShot[Channel] = OneShot()
        self._on_open: Observers[[Channel]] = Observers("opened", _log)
        self._on_close: Observers[[BaseException]] = Observers("closed", _log)
        self._pending = 0
        self._idle: list[Deferred[None]] = []

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed" if self._closed else "not open"
        return f"<RecoveringChannel, {state}, the number {self.opened}>"

    # -- verbs ---------------------------------------------------------------------

    exchange_declare = _verb(Channel.exchange_declare)
    exchange_delete = _verb(Channel.exchange_delete)
    exchange_bind = _verb(Channel.exchange_bind)
    exchange_unbind = _verb(Channel.exchange_unbind)
    queue_declare = _verb(Channel.queue_declare)
    queue_bind = _verb(Channel.queue_bind)
    queue_unbind = _verb(Channel.queue_unbind)
    queue_purge = _verb(Channel.queue_purge)
    queue_delete = _verb(Channel.queue_delete)
    basic_publish = _verb(Channel.basic_publish)
    publish_many = _verb(Channel.publish_many)
    basic_get = _verb(Channel.basic_get)
    tx_commit = _verb(Channel.tx_commit)
    tx_rollback = _verb(Channel.tx_rollback)
    flush = _verb(Channel.flush)

    # -- using it ------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """
        Whether there is a channel now.
        """
        return self.channel is not None and self.channel.is_open

    def when_open(self) -> Deferred[Channel]:
        """
        :returns: fires with the present channel, or the next one; fails with the reason
            when there will be none, as this was closed, or the service was stopped or
            has given up.  Each caller has a Deferred of their own; cancelling it does
            nothing else.
        """
        return self._open.when_fired()

    def call(
        self,
        verb: Callable[Concatenate[Channel, P], Deferred[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Deferred[T]:
        """
        Call a verb of the present channel, or of the next one.

        :param verb: such as ``Channel.basic_publish``.
        :returns: what the verb returns; it fails as `when_open` does, too.
        """
        if self.channel is not None:
            called = verb(self.channel, *args, **kwargs)
        else:
            called = self.when_open().addCallback(
                lambda channel: verb(channel, *args, **kwargs)
            )
        self._pending += 1
        result: Deferred[T] = Deferred(lambda _: called.cancel())

        def answered(answer: Any) -> None:
            # The caller first: `when_idle` is when they know.
            if isinstance(answer, Failure):
                result.errback(answer)
            else:
                result.callback(answer)
            self._answered()

        called.addBoth(answered)
        return result

    def _answered(self) -> None:
        self._pending -= 1
        if not self._pending:
            idle, self._idle = self._idle, []
            for waiting in idle:
                waiting.callback(None)

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when every `call` has its answer, and, in confirm mode, every
            message its confirm.
        """
        if not self._pending:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._idle.remove)
        self._idle.append(waiting)
        return waiting

    def observe(
        self,
        *,
        opened: Callable[[Channel], object] | None = None,
        closed: Callable[[BaseException], object] | None = None,
    ) -> Callable[[], None]:
        """
        Have functions called when there is a new channel, and when a channel has ended.
        What a function raises is logged, and changes nothing.

        :param opened: ``(channel)``: there is a new channel.  If there is a channel
            already, this is called at once.
        :param closed: ``(reason)``: the channel has ended.
        :returns: call this to end the observation; calling it twice is harmless.
        :raises TypeError: one of them is not callable, or there is none.
        """
        now: Observers[[Channel]] = Observers("opened", _log)
        if callable(opened):
            opened = self._while_open(opened)
        stop = observe(opened=(self._on_open, opened), closed=(self._on_close, closed))
        if opened is not None and self.channel is not None:
            now.add(opened)
            now.tell(self.channel)
        return stop

    def _while_open(
        self, opened: Callable[[Channel], object]
    ) -> Callable[[Channel], object]:
        # An observer that is called first may close the channel.
        def when_open(channel: Channel) -> object:
            return opened(channel) if self.channel is channel else None

        return when_open

    def close(self) -> Deferred[None]:
        """
        Close it for good.

        :returns: fires when the present channel has ended; it does not fail.
        """
        if not self._closed:
            self._closed = True
            self._forget(self)
        channel = self.channel
        self.stop(ChannelClosed("the channel was closed by us", by_us=True))
        return succeed(None) if channel is None else channel.close()

    # -- what the service calls ------------------------------------------------------

    def finish(self) -> Deferred[None]:
        """
        Close the present channel, so that the broker has processed all settlements.
        It is not opened again on this connection.
        """
        self._connection = None
        return succeed(None) if self.channel is None else self.channel.close()

    def abandon(self, reason: ChannelClosed) -> None:
        """
        Use another channel: the broker does nothing on the present one.
        """
        if self.channel is not None:
            self.channel.abandon(reason)

    def reset(self) -> None:
        """
        Let `when_open` wait for the next channel again, after `stop`.
        """
        if self._open.fired:
            self._open = OneShot()

    def attach(self, connection: AMQPProtocol) -> None:
        """
        There is a new connection.
        """
        if self._closed:
            return
        self._connection = connection
        self.reset()
        self._begin()

    def detach(self, reason: BaseException) -> None:
        """
        The connection has ended.
        """
        self._connection = None
        self._cancel()
        channel, self.channel = self.channel, None
        if channel is not None:
            self._lost(reason)

    def stop(self, reason: BaseException) -> None:
        """
        There will be no more channels, unless it is attached once more.
        """
        self.detach(reason)
        self.reset()
        self._open.fail(reason)

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()

    # -- opening it --------------------------------------------------------------------

    def _begin(self) -> None:
        self._call = None
        connection = self._connection
        assert connection is not None
        opening = Deferred.fromCoroutine(self._set_up(connection))
        self._opening = opening.addCallbacks(self._is_set_up, self._failed)
        if opening.called:
            self._opening = None

    async def _set_up(self, connection: AMQPProtocol) -> Channel:
        reactor = self.reactor
        unacked = partial(UnackedDeliveries, stale=self._answered_too_late)
        channel = await connection.open_channel(settler=unacked).addTimeout(
            STEP_TIMEOUT, reactor
        )
        if self._join_acks:
            channel.join_acks()
        modes: list[Deferred[Any]] = []
        if self._confirm:
            modes.append(channel.confirm_select(self._window))
        if self._prefetch is not None:
            modes.append(channel.basic_qos(prefetch_count=self._prefetch))
        if self._tx:
            modes.append(channel.tx_select())
        try:
            await together(modes).addTimeout(STEP_TIMEOUT, reactor)
        except (CancelledError, TimeoutError):
            channel.close()
            raise
        return channel

    def _answered_too_late(self) -> None:
        self.stale += 1

    def _is_set_up(self, channel: Channel) -> None:
        self._opening = None
        if not channel.is_open:  # and it was its last deed to answer
            channel.when_closed().addErrback(self._failed)
            return
        self.channel = channel
        self.opened += 1
        self._backoff.succeeded(self.reactor.seconds())
        channel.when_closed().addBoth(self._ended, channel)
        self._open.fire(channel)
        self._on_open.tell(channel)

    def _failed(self, failure: Failure) -> None:
        """
        There is no channel.
        """
        self._opening = None
        if failure.check(CancelledError) is None:
            self.error = failure.value
            self._reopen_later()

    def _ended(self, result: Failure | None, channel: Channel) -> None:
        """
        There is none any more.
        """
        unacked = channel.settler
        if isinstance(unacked, UnackedDeliveries):
            unacked.finish()
        if self.channel is not channel:
            return
        self.channel = None
        reason: BaseException = ChannelClosed("the channel was closed", by_us=True)
        if isinstance(result, Failure) and result.value is not None:
            reason = result.value
        self._lost(reason)
        self._reopen_later()

    def _lost(self, reason: BaseException) -> None:
        self.error = reason
        self._open = OneShot()
        self._on_close.tell(reason)

    def _reopen_later(self) -> None:
        connection, error = self._connection, self.error
        if connection is None or not connection.is_open or self._call is not None:
            return  # the service will attach it to the next one
        delay = self._backoff.next(self.reactor.seconds())
        _log.warn(
            "A channel has ended, and is opened again in {delay:.2f} s: "
            "{error}{remedy}",
            delay=delay,
            error=printable(str(error)),
            remedy=_REMEDY if isinstance(error, DeliveryAckTimeout) else "",
        )
        self._call = self.reactor.callLater(delay, self._begin)
