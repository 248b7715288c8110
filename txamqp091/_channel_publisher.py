# -*- test-case-name: txamqp091.test.unit.client.test_publisher -*-
"""
Publishing on one channel: when a message may leave, and who hears of its fate.

A message leaves at once if it may.  It may not while the transport is full, while
the broker blocks the connection or stops the channel, or while the window of
unconfirmed messages is; then it waits here, in order, and its Deferred with it.
Numbering the messages, and matching confirms and returns to them, is
`txamqp091._machine.confirms`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from txamqp091._flow import Flow
from txamqp091._machine.channel import ChannelMachine
from txamqp091._machine.sinks import ReplyHandle
from txamqp091._observer import Observers
from txamqp091.errors import AMQPError, BatchFailed, Returned
from txamqp091.message import Body, Message, body_bytes
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.spec import BasicReturn, ChannelFlow

__all__ = ["ChannelPublisher", "DEFAULT_WINDOW", "DEFAULT_WINDOW_SIZE", "Waiting"]

#: How many messages may be unconfirmed before the next one waits.
DEFAULT_WINDOW = 1000

#: How many bytes of large bodies may be unconfirmed before the next message waits.
DEFAULT_WINDOW_SIZE = 16 << 20


_new: Any = object.__new__

#: The encoding of no properties.
_NONE = EMPTY.encoded


def _encoded(properties: Properties) -> bytes:
    try:
        return properties.encoded
    except AttributeError:
        raise _not_properties(properties) from None


def _not_properties(properties: object) -> TypeError:
    kind = type(properties).__name__
    return TypeError(f"message properties are Properties, not {kind}")


def _not_a_message(message: object) -> TypeError:
    """
    What is wrong with something that has not the attributes of a `Message`.
    """
    if isinstance(message, Message):
        return _not_properties(message.properties)
    return TypeError(f"a batch is made of Message, not {type(message).__name__}")


class Waiting(Protocol):
    """
    Something that will leave when it may.
    """

    def go(self) -> bool:
        """
        Send what may be sent now; tell whether that was all.
        """

    def fail(self, reason: AMQPError) -> None:
        """
        It will never leave.
        """


class ChannelPublisher:
    """
    The sending side of a channel: its machine's sink, and the queue of messages
    that wait.

    :ivar machine: the channel's machine.
    """

    _log = Logger(namespace="txamqp091.channel")

    def __init__(
        self,
        machine: ChannelMachine,
        flow: Flow,
        ended: Callable[[AMQPError], None],
    ) -> None:
        """
        :param ended: told why when the channel has ended.
        """
        self.machine = machine
        self._flow = flow
        self._ended = ended
        self._window = DEFAULT_WINDOW
        self._window_size = DEFAULT_WINDOW_SIZE
        # Whether the broker lets this channel publish, and it has not ended.
        self._flowing = True
        # In order; one of many is forgotten at no more cost than the first one.
        # With the bytes that each counts for.
        self._waiting: OrderedDict[Waiting, int] = OrderedDict()
        self._releasing = False
        self._observers: Observers[[Message]] = Observers("basic.return", self._log)

    # -- what we say -----------------------------------------------------------

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None,
        mandatory: bool,
        waiting: Callable[[], Deferred[None]] = Deferred,
    ) -> Deferred[None]:
        """
        See `Channel.basic_publish`.

        :param waiting: makes what waits for the confirm of a message that leaves at
            once; an adapter has something cheaper than a Deferred.
        """
        machine = self.machine
        try:
            if type(body) is not bytes:
                body = body_bytes(body)
            encoded = _NONE if properties is None else _encoded(properties)
            if self.may_send and not self._waiting:
                deferred = _new(_Left) if machine.confirms is None else waiting()
                machine.publish(
                    exchange, routing_key, body, encoded, mandatory, deferred
                )
                return deferred
            machine.check()
            cost = self._flow.keep(len(body) + len(encoded))
        except (AMQPError, TypeError) as error:
            return fail(error.with_traceback(None))
        held = _Held(self, exchange, routing_key, body, encoded, mandatory)
        self.wait(held, cost)
        return held.deferred

    def publish_many(self, messages: Iterable[Message]) -> Deferred[None]:
        """
        See `Channel.publish_many`.
        """
        try:
            self.machine.check()
            batch = _Batch(self, iter(messages))
        except (AMQPError, TypeError) as error:
            return fail(error.with_traceback(None))
        if self._waiting or not batch.go():
            self.wait(batch)
        return batch.deferred

    def flush(self) -> Deferred[None]:
        """
        See `Channel.flush`.
        """
        try:
            self.machine.check()
        except AMQPError as error:
            return fail(error.with_traceback(None))
        barrier = _Barrier(self)
        if self._waiting:
            self.wait(barrier)
        else:
            barrier.go()
        return barrier.deferred

    def send(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: bytes,
        mandatory: bool,
        handle: ReplyHandle,
    ) -> None:
        """
        Send a message that may leave now.
        """
        machine = self.machine
        machine.publish(exchange, routing_key, body, properties, mandatory, handle)
        if machine.confirms is None:
            handle.callback(None)

    @property
    def may_send(self) -> bool:
        """
        Whether a message may leave now.
        """
        if not (self._flow.may_publish and self._flowing):
            return False
        confirms = self.machine.confirms
        return confirms is None or (
            len(confirms.outstanding) < self._window
            and confirms.size < self._window_size
        )

    @property
    def is_open(self) -> bool:
        """
        Whether the channel has not ended, and is not about to.
        """
        return self.machine.is_open

    def select_confirms(
        self, window: int, window_size: int, no_wait: bool, handle: ReplyHandle
    ) -> None:
        """
        Enter confirm mode; see `Channel.confirm_select`.
        """
        self.machine.select_confirms(handle, no_wait)
        self._window = window
        self._window_size = window_size
        self.release()

    def wait(self, item: Waiting, cost: int = 0) -> None:
        """
        Have something leave when it may, in its turn; or fail, if the channel ends.

        :param cost: what `Flow.keep` has counted for it.
        """
        self._waiting[item] = cost
        if self.machine.reason is not None:  # it ended while this one was at it
            self._fail(self.machine.reason)
        else:
            self._flow.wake(self)

    def forget(self, item: Waiting) -> None:
        """
        Nobody wants this one to leave any more.
        """
        self._flow.let_go(self._waiting.pop(item, 0))

    def release(self) -> None:
        """
        Let go what waits, as far as it may leave now.
        """
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._waiting and self.may_send and self.is_open:
                item, cost = self._waiting.popitem(last=False)
                self._flow.let_go(cost)
                if not item.go():  # a batch, which costs nothing
                    self._waiting[item] = 0
                    self._waiting.move_to_end(item, last=False)
        finally:
            self._releasing = False
        if self.machine.reason is not None:
            self._fail(self.machine.reason)
        elif self._waiting:
            self._flow.wake(self)

    def _fail(self, reason: AMQPError) -> None:
        waiting, self._waiting = self._waiting, OrderedDict()
        for item, cost in waiting.items():
            self._flow.let_go(cost)
            item.fail(reason)

    def observe_returns(
        self, listener: Callable[[Message], object]
    ) -> Callable[[], None]:
        """
        See `Channel.observe_returns`.
        """
        return self._observers.add(listener)

    # -- what the machine calls: see `ChannelSink` -----------------------------

    def confirmed(self) -> None:
        if self._waiting:
            self.release()

    def returned(self, method: BasicReturn, header: bytes, body: bytes) -> Returned:
        message = Message(
            method.exchange,
            method.routing_key,
            body,
            Properties.from_wire(header[12:]),
            mandatory=True,
        )
        self._observers.tell(message)
        return Returned(message, method.reply_code, method.reply_text)

    def flow(self, active: bool) -> None:
        self._flowing = active
        self.release()

    def closed(self, reason: AMQPError) -> None:
        self._flowing = False
        self._fail(reason)
        self._ended(reason)


class _Left(Deferred[None]):
    """
    What ``succeed`` makes of None.  It is made without ``__init__``, which runs when
    something is added to it: most are never looked at, and cost a quarter.
    """

    called = True
    result = None
    _ready = False

    def __getattr__(self, name: str) -> Any:
        if not self._ready:
            self._ready = True
            self.__init__()  # type: ignore[misc]
        return object.__getattribute__(self, name)


class _Held:
    """
    One message that waits: first to leave, then for its confirm.
    """

    __slots__ = ("_arguments", "_publisher", "deferred")

    def __init__(
        self,
        publisher: ChannelPublisher,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: bytes,
        mandatory: bool,
    ) -> None:
        self._publisher = publisher
        self._arguments = (exchange, routing_key, body, properties, mandatory)
        # Cancelled, it frees its body now, and not when messages may leave again.
        self.deferred: Deferred[None] = Deferred(lambda _: publisher.forget(self))

    def go(self) -> bool:
        try:
            self._publisher.send(*self._arguments, self)
        except (AMQPError, TypeError) as error:
            self.errback(error.with_traceback(None))
        else:
            del self._arguments  # the confirm may take long, and the body be large
        return True

    def fail(self, reason: AMQPError) -> None:
        self.errback(reason.with_traceback(None))

    def callback(self, result: None) -> None:
        if not self.deferred.called:
            self.deferred.callback(result)

    def errback(self, fail: BaseException) -> None:
        if not self.deferred.called:
            self.deferred.errback(fail)


class _Barrier:
    """
    Waits until all before it have left, and then for an answer of the broker.
    """

    __slots__ = ("_publisher", "deferred")

    def __init__(self, publisher: ChannelPublisher) -> None:
        self._publisher = publisher
        self.deferred: Deferred[None] = Deferred(lambda _: publisher.forget(self))

    def go(self) -> bool:
        # Of what the broker answers, this has no other effect.
        try:
            self._publisher.machine.call(ChannelFlow(True), self)
        except AMQPError as error:
            self.errback(error.with_traceback(None))
        return True

    def fail(self, reason: AMQPError) -> None:
        self.errback(reason.with_traceback(None))

    def callback(self, result: object) -> None:
        if not self.deferred.called:
            self.deferred.callback(None)

    def errback(self, fail: BaseException) -> None:
        if not self.deferred.called:
            self.deferred.errback(fail)


class _Batch:
    """
    Many messages, drawn from an iterator as they may leave, and one Deferred.
    """

    __slots__ = ("_exhausted", "_failures", "_messages", "_pending", "_publisher",
                 "_sent", "deferred")  # fmt: skip

    def __init__(
        self, publisher: ChannelPublisher, messages: Iterator[Message]
    ) -> None:
        self.deferred: Deferred[None] = Deferred(lambda _: publisher.forget(self))
        self._publisher = publisher
        self._messages = messages
        self._failures: list[tuple[int, BaseException]] = []
        self._sent = 0
        self._pending = 0
        self._exhausted = False

    def go(self) -> bool:
        publisher, deferred = self._publisher, self.deferred
        machine, draw = publisher.machine, self._messages.__next__
        publish = machine.publish
        # One more is pending as long as this loop runs: the Deferred must not fire
        # in the middle of it.
        self._pending += 1
        try:
            while publisher.may_send and not deferred.called:
                message = draw()
                place = None
                if machine.confirms is not None:
                    place = _Place(self, self._sent)
                    self._pending += 1
                self._sent += 1
                try:
                    body = message.body
                    publish(
                        message.exchange,
                        message.routing_key,
                        body if type(body) is bytes else body_bytes(body),
                        message.properties.encoded,
                        message.mandatory,
                        place,
                    )
                except (AMQPError, TypeError, AttributeError) as error:
                    if place is not None:
                        self._pending -= 1
                    if isinstance(error, AttributeError):
                        error = _not_a_message(message)
                    kept = error.with_traceback(None)
                    self._failures.append((self._sent - 1, kept))
                    if not publisher.is_open:
                        break  # the rest fails when the channel has ended
        except StopIteration:
            self._exhausted = True
        except BaseException as error:  # the user's iterator failed
            self._failures.append((self._sent, error.with_traceback(None)))
            self._exhausted = True
        self.done()
        return self._exhausted or deferred.called

    def done(self) -> None:
        """
        One message less is pending.
        """
        self._pending -= 1
        if self._pending == 0 and self._exhausted and not self.deferred.called:
            if self._failures:
                self._failures.sort(key=lambda failure: failure[0])
                self.deferred.errback(BatchFailed(self._failures))
            else:
                self.deferred.callback(None)

    def failed(self, place: int, error: BaseException) -> None:
        """
        A message was not taken.
        """
        self._failures.append((place, error))
        self.done()

    def fail(self, reason: AMQPError) -> None:
        self._exhausted = True
        self._pending += 1
        self.failed(self._sent, reason)


class _Place:
    """
    Waits for one message of a batch.
    """

    __slots__ = ("_batch", "_number")

    def __init__(self, batch: _Batch, number: int) -> None:
        self._batch = batch
        self._number = number

    def callback(self, result: object) -> None:
        self._batch.done()

    def errback(self, fail: BaseException) -> None:
        self._batch.failed(self._number, fail)
