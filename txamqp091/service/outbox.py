# -*- test-case-name: txamqp091.test.unit.service.test_outbox -*-
"""
The messages of a publisher, until they are confirmed or have failed: `Outbox`.  A
message is a `PendingPublish`; the channel that sends it is a `ConfirmChannel`.

Theory.  A message is in one place at a time:

==================  ==================================================================
``Outbox.queue``    It waits to be sent, in the order of publishing.
``Outbox._nacked``  The broker has nacked it; it goes back to the queue when it is due.
``._restoring``     The broker could not route it; it goes back to the queue once, when
                    the topology that it needs was declared again.
``channel.sent``    It was sent on that channel, and has no confirm.  It stays there
                    until the broker answers, even if its Deferred has fired.
==================  ==================================================================

One channel sends at a time.  When it has ended alone, or after a nack, another channel
takes its place, and the old one stays until it has an answer for all that it has sent.

A message that gets no answer, since its channel has ended, goes to the front of the
queue, in its old order, or fails; ``resends`` decides.  A nacked message is sent again
on another channel (see `txamqp091.service.broker_quirks`, as for all time limits).

The broker does not say which message it has closed a channel for.  If only one message
had no answer, that one fails.  Otherwise all of them are *suspects*, which are sent
again one by one: then the next one that closes a channel is the only one.

The timers, each of which runs at most once:

====================  ================================================================
``_nacked_call``      Nacked messages are due.
``_hold_call``        The broker has closed a channel, and the next one may be used.
``_first_call``       The first message on a channel should have an answer by now.
``_silence_call``     There should have been an answer since the last time.
``_blocked_call``     The first message in the queue has waited long enough for a
                      broker that blocks.
====================  ================================================================
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import merge
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from txamqp091._channel_publisher import ChannelPublisher
from txamqp091.channel import Channel
from txamqp091.errors import (
    AMQPError,
    ChannelClosed,
    Closed,
    ConnectionBlocked,
    ConnectionClosed,
    Nacked,
    NotFound,
    Returned,
    UndecodableProperty,
    printable,
)
from txamqp091.service.broker_quirks import (
    FIRST_CONFIRM,
    OLD_CHANNELS_MAX,
    SILENCE,
)
from txamqp091.service.client import AMQPClientService
from txamqp091.service.recovering_channel import RecoveringChannel
from txamqp091.service.retry import RetryPolicy
from txamqp091.wire.properties import Properties

_log = Logger(namespace="txamqp091.service")

#: The header of a message that was sent before, and may have arrived.
REPUBLISHED = "x-republished"

#: How long to wait before another channel is used, when the broker has closed one.
_REOPENED_AFTER = RetryPolicy(initial_delay=0.05, max_delay=2.0)

#: The reply codes of connections that ended for another reason than a message.
_INNOCENT = (0, 200, 320)


class PendingPublish:
    """
    A message without an outcome.  Its channel calls `callback` or `errback`.

    :ivar number: its place among all messages of its publisher.
    :ivar encoded: its properties, as they go on the wire.
    :ivar message_id: the message_id that the publisher has added; None if it has not.
    :ivar size: the bytes of its body and properties.
    :ivar deferred: fires with the outcome.
    :ivar queued_at: since when it waits to be sent.
    :ivar due: when it is sent again after a nack.
    :ivar nacks: how often the broker has nacked it.
    :ivar suspect: whether the broker may have closed a channel because of it: it is
        sent when no other message is unconfirmed.
    :ivar restored: whether the topology that it needs was declared again for it.
    :ivar channel: the channel that has sent it.
    """

    __slots__ = (
        "_outbox",
        "_properties",
        "body",
        "channel",
        "deferred",
        "due",
        "encoded",
        "exchange",
        "mandatory",
        "message_id",
        "nacks",
        "number",
        "queued_at",
        "restored",
        "routing_key",
        "size",
        "suspect",
    )

    def __init__(
        self,
        outbox: Outbox,
        number: int,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: Properties,
        encoded: bytes,
        message_id: str | None,
        mandatory: bool,
    ) -> None:
        """
        :param properties: its properties, without what the publisher has added.
        :param encoded: its properties, as they go on the wire.
        """
        self._outbox = outbox
        self.number = number
        self.exchange = exchange
        self.routing_key = routing_key
        self.body = body
        self._properties: Properties | None = properties
        self.encoded = encoded
        self.message_id = message_id
        self.mandatory = mandatory
        self.size = len(body) + len(encoded)
        self.deferred: Deferred[None] = Deferred(self._cancel)
        self.queued_at = 0.0
        self.due = 0.0
        self.nacks = 0
        self.suspect = False
        self.restored = False
        self.channel: ConfirmChannel | None = None

    def __lt__(self, other: PendingPublish) -> bool:
        return self.number < other.number

    @property
    def is_open(self) -> bool:
        """
        Whether its Deferred has not fired.
        """
        return not self.deferred.called

    def mark_republished(self) -> None:
        """
        Add the header that says that it may have arrived before.
        """
        properties, self._properties = self._properties, None
        if properties is None:
            return  # it has the header
        try:
            changes: dict[str, Any] = {
                "headers": {**(properties.headers or {}), REPUBLISHED: True}
            }
            if self.message_id is not None:
                changes["message_id"] = self.message_id
            self.encoded = properties.replace(**changes).encoded
        except (AMQPError, UndecodableProperty):
            pass  # properties that came from elsewhere go as they came

    def fail(self, error: BaseException) -> None:
        """
        Fail its Deferred.
        """
        # The error may be kept, and given to others; a traceback would grow with each.
        self.deferred.errback(error.with_traceback(None))

    def _cancel(self, _: Deferred[None]) -> None:
        self._outbox.cancelled(self)

    # -- what the channel calls: see `ReplyHandle` -------------------------------------

    def callback(self, result: object) -> None:
        """
        The broker has confirmed it.
        """
        channel = self._answered()
        self._outbox.confirmed(self)
        if not channel.sent:
            channel.emptied()

    def errback(self, error: BaseException) -> None:
        """
        The broker has refused it, or there will be no answer.
        """
        channel = self._answered()
        if isinstance(error, Nacked):
            self._outbox.nacked(self, channel)
        elif isinstance(error, Returned):
            self._outbox.not_routed(self, error)
        elif not isinstance(error, AMQPError):
            self._outbox.settle(self, error)
        else:
            if self._outbox.lost(self, error):
                channel.give_back(self, error)
            return  # the end of the channel follows
        if not channel.sent:
            channel.emptied()

    def _answered(self) -> ConfirmChannel:
        channel = self.channel
        assert channel is not None
        del channel.sent[self]
        channel.has_confirmed = True
        return channel


class ConfirmChannel:
    """
    A channel in confirm mode, for as long as it sends messages.

    The first message of a channel is sent alone, until there is its confirm.

    :ivar sent: the messages that were sent and have no answer, in order.
    :ivar channel: the channel.
    :ivar retired: whether it sends no more messages.
    :ivar has_nacked: whether the broker has nacked a message here.
    :ivar has_confirmed: whether the broker has answered for a message on the present
        channel.
    """

    def __init__(self, outbox: Outbox, channel: RecoveringChannel) -> None:
        self.sent: dict[PendingPublish, None] = {}
        self.channel = channel
        self.retired = False
        self.has_nacked = False
        self.has_confirmed = False
        self._outbox = outbox
        self._publisher: ChannelPublisher | None = None
        self._lost: list[PendingPublish] = []
        # Whether a suspect was sent, and no other message may follow.
        self._alone = False
        # Whether the channel's publisher calls `go` when it has room.
        self._waiting = False
        self._stop_observing = channel.observe(opened=self._opened, closed=self._closed)

    def watch(self) -> None:
        """
        Tell the outbox when there will be no more channel.
        """
        self.channel.when_open().addCallbacks(lambda _: None, self._abandoned)

    @property
    def may_send(self) -> bool:
        """
        Whether a message that is no suspect may be sent at once.
        """
        publisher = self._publisher
        return (
            publisher is not None
            and publisher.may_send
            and publisher.is_open
            and (self.has_confirmed or not self.sent)
            and not (self._alone or self.retired or self._outbox.held)
        )

    def send(self, message: PendingPublish) -> None:
        """
        Send a message.
        """
        publisher = self._publisher
        assert publisher is not None
        message.channel = self
        self.sent[message] = None
        try:
            publisher.send(
                message.exchange,
                message.routing_key,
                message.body,
                message.encoded,
                message.mandatory,
                message,
            )
        except AMQPError as error:  # such as too many headers for a frame
            del self.sent[message]
            self._alone = False
            self._outbox.settle(message, error)
        else:
            if not self.has_confirmed:
                self._outbox.first_sent(self)

    def send_waiting(self) -> None:
        """
        Send messages from the queue, as far as it may, and the others when it may.
        """
        publisher = self._publisher
        if publisher is None or self._waiting:
            return
        self._waiting = True
        if self._send_now():
            self._waiting = False
        elif publisher is self._publisher:
            publisher.wait(self)

    def _send_now(self) -> bool:
        """
        :returns: whether no message is left that waits only for room.
        """
        queue = self._outbox.queue
        while queue and not (self._alone or self.retired or self._outbox.held):
            if self.sent and not self.has_confirmed:
                return True  # until there is the first answer
            if not self.may_send:
                return False
            if next(iter(queue)).suspect:
                if self.sent:
                    return True
                self._alone = True
            message, _ = queue.popitem(last=False)
            self.send(message)
        return True

    def emptied(self) -> None:
        """
        All that was sent has an answer.
        """
        self._alone = False
        self._outbox.idle(self)

    def give_back(self, message: PendingPublish, reason: AMQPError) -> None:
        """
        There will be no answer for a message, which is to be sent again.
        """
        if self._publisher is not None:
            self._lost.append(message)  # until the channel's end is told
        else:
            self._outbox.closed(self, [message], reason)

    def retire(self) -> None:
        """
        Send no more messages.
        """
        self.retired = True
        if not self.sent:
            self.close()

    def close(self) -> None:
        """
        Send no more messages, and close the channel.
        """
        self.retired = True
        self._stop_observing()
        self.channel.close()
        self._publisher = None

    # -- what the publisher of the channel calls: see its `Waiting` --------------------

    def go(self) -> bool:
        """
        Send messages from the queue, as far as it may.
        """
        done = self._send_now()
        self._waiting = not done
        return done

    def fail(self, reason: AMQPError) -> None:
        """
        The channel has ended; `_closed` follows.
        """
        self._waiting = False

    # -- what the recovering channel tells ---------------------------------------------

    def _opened(self, channel: Channel) -> None:
        self._publisher = channel.publisher
        self._waiting = self.has_confirmed = False
        self.send_waiting()

    def _closed(self, reason: BaseException) -> None:
        self._publisher = None
        self._alone = self._waiting = False
        lost, self._lost = self._lost, []
        self._outbox.closed(self, lost, reason)

    def _abandoned(self, failure: object) -> None:
        if not self.retired:
            reason = getattr(failure, "value", None)
            assert isinstance(reason, BaseException)
            self._outbox.abandoned(reason)


class Outbox:
    """
    Sends messages until they are confirmed, or have failed.

    :ivar queue: the messages that wait to be sent, in order.
    :ivar held: whether nothing is sent for now.
    :ivar outstanding: how many messages have no outcome, or no answer.
    :ivar size: the bytes of their bodies and properties.
    :ivar closed_for: why no messages are taken any more; None while they are.
    :ivar confirmed_count: how many messages the broker has confirmed.
    :ivar nacked_count: how often the broker has nacked a message.
    :ivar returned_count: how many messages came back, since no queue took them.
    :ivar republished_count: how often a message was sent again.
    :ivar failed_count: how many messages have failed.
    """

    def __init__(
        self,
        service: AMQPClientService,
        *,
        limit: int,
        size_limit: int,
        resends: bool,
        window: int,
        blocked_timeout: float | None,
        policy: RetryPolicy,
    ) -> None:
        """
        :param limit: how many messages may be outstanding.
        :param size_limit: how many bytes of them.
        :param resends: whether a message that was sent and got no answer is sent again.
        :param window: how many messages may be unconfirmed on a channel.
        :param blocked_timeout: how many seconds a message waits while the broker
            blocks; None is for ever.
        :param policy: when a nacked message is sent again.
        """
        self.queue: OrderedDict[PendingPublish, None] = OrderedDict()
        self.held = False
        self.outstanding = 0
        self.size = 0
        self.closed_for: AMQPError | None = None
        self.confirmed_count = 0
        self.nacked_count = 0
        self.returned_count = 0
        self.republished_count = 0
        self.failed_count = 0
        self._service = service
        self._reactor = service.reactor
        self._limit = limit
        self._size_limit = size_limit
        self._resends = resends
        self._window = window
        self._blocked_timeout = blocked_timeout
        self._policy = policy
        self._draining = False
        self._stopping = False
        self._abandoned = False
        self._room: deque[Deferred[None]] = deque()
        self._idle: deque[Deferred[None]] = deque()
        self._nacked: dict[PendingPublish, None] = {}
        self._nacked_call: IDelayedCall | None = None
        self._restoring: dict[PendingPublish, None] = {}
        self._renewed_at = 0.0
        # How many channels have ended alone since one confirmed a message.
        self._channels_lost = 0
        self._hold_call: IDelayedCall | None = None
        self._first_call: IDelayedCall | None = None
        self._silence_call: IDelayedCall | None = None
        # The oldest message without an answer, and the number of answers, the last time
        # that `_silence_call` has looked.
        self._oldest: tuple[PendingPublish | None, int] = None, 0
        self._blocked_for: str | None = None
        self._blocked_since = 0.0
        self._blocked_call: IDelayedCall | None = None
        self._retired: dict[ConfirmChannel, None] = {}
        self._channel = self._new_channel()
        self._stop_observing = service.observe(
            connecting=self._connecting,
            blocked=self._block,
            unblocked=self._unblock,
            lost=self._unblock,
            draining=self._drain,
        )

    # -- what the publisher calls ------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """
        Whether another message is taken.
        """
        return self.outstanding < self._limit and self.size < self._size_limit

    @property
    def unconfirmed(self) -> int:
        """
        How many messages were sent and have no answer.
        """
        return sum(len(each.sent) for each in self._channels())

    def add(self, message: PendingPublish) -> None:
        """
        Send a message, now or later.
        """
        self.outstanding += 1
        self.size += message.size
        channel = self._channel
        if not self.queue and channel.may_send:
            channel.send(message)
        else:
            message.queued_at = self._reactor.seconds()
            self.queue[message] = None
            channel.send_waiting()
            self._watch_blocked()

    def check(self) -> None:
        """
        :raises AMQPError: no messages are taken any more.
        """
        if self.closed_for is not None:
            self._resume()
        if self.closed_for is not None:
            raise self.closed_for.with_traceback(None)

    def _resume(self) -> None:
        """
        Take messages again, if the service was started again.
        """
        if self._abandoned and not self._stopping:
            self._abandoned = False
            self._channel.watch()  # which tells at once when there will be no channel
            if not self._abandoned:
                self._draining = False
                self.closed_for = None

    def when_room(self) -> Deferred[None]:
        """
        :returns: fires when another message is taken; fails when none is any more.
        """
        return succeed(None) if self.has_room else _wait_in(self._room)

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when nothing is outstanding.
        """
        return _wait_in(self._idle) if self.outstanding else succeed(None)

    def stop(self, reason: AMQPError) -> None:
        """
        Take no more messages; send those that are here.
        """
        self._stopping = True
        self._refuse(reason)

    def close(self) -> None:
        """
        Send nothing more, and fail what is outstanding.
        """
        assert self.closed_for is not None
        self._fail_all(self.closed_for)
        self._stop_observing()
        _stop(self._first_call)
        _stop(self._silence_call)
        for channel in self._channels():
            channel.close()
        self._retired.clear()

    def _refuse(self, reason: AMQPError) -> None:
        self.closed_for = reason
        room, self._room = self._room, deque()
        while room:
            room.popleft().errback(reason.with_traceback(None))

    def _fail_all(self, reason: AMQPError) -> None:
        for call in (
            self._nacked_call,
            self._hold_call,
            self._first_call,
            self._silence_call,
            self._blocked_call,
        ):
            _stop(call)
        self._blocked_for = None
        self.held = False
        messages = [*self.queue, *self._nacked, *self._restoring]
        self.queue.clear()
        self._restoring.clear()
        self._nacked.clear()
        for message in messages:
            self.settle(message, reason)
        for channel in self._channels():
            for message in list(channel.sent):
                self._fail_in_flight(message, reason)

    def _channels(self) -> list[ConfirmChannel]:
        return [self._channel, *self._retired]

    # -- outcomes ----------------------------------------------------------------------

    def settle(self, message: PendingPublish, error: BaseException | None) -> None:
        """
        A message is outstanding no longer: it is confirmed, or has failed.
        """
        self.outstanding -= 1
        self.size -= message.size
        if error is not None:
            self._fail_in_flight(message, error)
        elif message.is_open:
            message.deferred.callback(None)
        while self._room and self.has_room:
            self._room.popleft().callback(None)
        while self._idle and not self.outstanding:
            self._idle.popleft().callback(None)

    def _fail_in_flight(self, message: PendingPublish, error: BaseException) -> None:
        """
        A message has failed; it is outstanding until the broker has answered for it.
        """
        if message.is_open:
            self.failed_count += 1
            self.returned_count += isinstance(error, Returned)
            message.fail(error)

    # -- what messages and channels call -----------------------------------------------

    def cancelled(self, message: PendingPublish) -> None:
        """
        The user has cancelled a message.  If it was sent, it is outstanding until the
        broker has answered for it.
        """
        if message in self.queue:
            del self.queue[message]
        elif message in self._nacked:
            del self._nacked[message]
        elif message in self._restoring:
            del self._restoring[message]
        else:
            return
        message.deferred.errback(CancelledError())
        self.settle(message, None)

    def confirmed(self, message: PendingPublish) -> None:
        """
        The broker has a message.
        """
        self.confirmed_count += 1
        self._channels_lost = 0
        self.settle(message, None)

    def nacked(self, message: PendingPublish, channel: ConfirmChannel) -> None:
        """
        The broker could not keep a message.
        """
        self.nacked_count += 1
        message.nacks += 1
        channel.has_nacked = True
        attempts = self._policy.max_attempts
        if not message.is_open:
            self.settle(message, None)
        elif attempts is not None and message.nacks >= attempts:
            self.settle(message, Nacked())
        else:
            message.due = self._reactor.seconds() + self._policy.delay(message.nacks)
            self._nacked[message] = None
            self._watch_nacked(message.due)

    def not_routed(self, message: PendingPublish, error: AMQPError) -> None:
        """
        The exchange of a message is missing, or no queue has taken it.
        """
        restoring = None
        if message.is_open and not message.restored:
            restoring = self._service.restore_route(
                message.exchange, message.routing_key
            )
        if restoring is None:
            self.settle(message, error)
        else:
            message.restored = True
            self._restoring[message] = None
            restoring.addCallback(self._has_restored, message)

    def _has_restored(self, _: None, message: PendingPublish) -> None:
        if message in self._restoring:
            del self._restoring[message]
            self._put_back([message], sent=False)
            self._channel.send_waiting()

    def lost(self, message: PendingPublish, reason: AMQPError) -> bool:
        """
        There will be no answer for a message.

        :returns: whether it is to be sent again.
        """
        if self._resends and message.is_open:
            return True
        self.settle(message, reason)
        return False

    def first_sent(self, channel: ConfirmChannel) -> None:
        """
        The first message was sent on a channel.
        """
        _stop(self._first_call)
        limit = FIRST_CONFIRM.delay(self._channels_lost + 1)
        self._first_call = self._reactor.callLater(limit, self._check_first, channel)
        if self._silence_call is None or not self._silence_call.active():
            self._check_silence()

    def _check_first(self, channel: ConfirmChannel) -> None:
        if channel is not self._channel or channel.has_confirmed or self._draining:
            return
        if self._blocked_for is not None:  # then the broker answers for nothing
            self.first_sent(channel)
        else:
            problem = "no answer to the first message on a channel"
            channel.channel.abandon(ChannelClosed(problem, by_us=True))

    def _check_silence(self) -> None:
        self._silence_call = self._reactor.callLater(SILENCE, self._check_silence)
        channel, connection = self._channel, self._service.connection
        before, self._oldest = self._oldest, (None, 0)
        if self._blocked_for is not None or self._draining or not channel.has_confirmed:
            return
        oldest = next(iter(channel.sent), None)
        self._oldest = oldest, self.confirmed_count + self.nacked_count
        if oldest is None or before != self._oldest or connection is None:
            return
        _log.warn(
            "The broker has confirmed nothing for {seconds} s; the service reconnects",
            seconds=SILENCE,
        )
        connection.close(reply_text="no confirms")

    def idle(self, channel: ConfirmChannel) -> None:
        """
        All that a channel has sent has an answer.
        """
        if channel is self._channel:
            _stop(self._first_call)
        if channel.retired:
            self._retired.pop(channel, None)
            channel.close()
        else:
            channel.send_waiting()

    def closed(
        self,
        channel: ConfirmChannel,
        messages: list[PendingPublish],
        reason: BaseException,
    ) -> None:
        """
        A channel has ended.

        :param messages: those that get no answer, and are to be sent again.
        """
        if channel is self._channel:
            _stop(self._first_call)
        rejected, again = self._find_rejected(messages, reason)
        self._put_back(again)
        if channel.retired:
            self._retired.pop(channel, None)
            channel.close()
        elif isinstance(reason, ChannelClosed) and not self._draining:
            self._reopen(reason)
        else:
            channel.watch()
        for message in rejected:
            if isinstance(reason, NotFound):
                self.not_routed(message, reason)
            else:
                self.settle(message, reason)
        self._channel.send_waiting()

    def abandoned(self, reason: BaseException) -> None:
        """
        There will be no more channel, unless the service is started again.
        """
        self._abandoned = True
        if not isinstance(reason, AMQPError):
            reason = ConnectionClosed(str(reason), by_us=True)
        if not self._stopping:
            self._refuse(reason)
        self._fail_all(reason)

    # -- sending again -----------------------------------------------------------------

    def _find_rejected(
        self, messages: list[PendingPublish], reason: BaseException
    ) -> tuple[list[PendingPublish], list[PendingPublish]]:
        """
        Part the messages without an answer in those for which the broker has closed the
        channel, and those to send again.
        """
        if not _is_refusal(reason):
            return [], messages
        if isinstance(reason, NotFound):
            # Only here the broker names what it has closed the channel for.
            text = f"{reason.reply_text} "
            missing = [each for each in messages if f"'{each.exchange}' " in text]
            if missing:
                return missing, [each for each in messages if each not in missing]
        if len(messages) == 1:
            return messages, []
        for message in messages:
            message.suspect = True
        return [], messages

    def _put_back(self, messages: list[PendingPublish], sent: bool = True) -> None:
        """
        Send messages again, before all that were published after them.

        :param sent: whether they may have arrived.
        """
        again = []
        for message in messages:
            if message.is_open:
                if sent:
                    message.mark_republished()
                self.republished_count += 1
                again.append(message)
            else:
                self.settle(message, None)
        if not again:
            return
        again.sort()
        queue = self.queue
        if not queue or again[-1] < next(iter(queue)):
            for message in reversed(again):
                queue[message] = None
                queue.move_to_end(message, last=False)
        else:
            merged = list(merge(again, queue))
            queue.clear()
            queue.update(dict.fromkeys(merged))

    def _new_channel(self) -> ConfirmChannel:
        channel = self._service.channel(confirm=True, window=self._window)
        result = ConfirmChannel(self, channel)
        result.watch()
        return result

    def _renew_channel(self) -> None:
        """
        Use another channel.
        """
        channel, self._channel = self._channel, self._new_channel()
        self._renewed_at = self._reactor.seconds()
        if channel.sent:
            self._retired[channel] = None
        channel.retire()

    def _reopen(self, reason: ChannelClosed) -> None:
        """
        Use another channel, a little later: the broker has closed this one.
        """
        self._channels_lost += 1
        delay = _REOPENED_AFTER.delay(self._channels_lost)
        _log.warn(
            "A channel for publishing was closed; the publisher uses another one in "
            "{delay:.2f} s: {error}",
            delay=delay,
            error=printable(str(reason), 500),
        )
        self._renew_channel()
        self.held = True
        _stop(self._hold_call)
        self._hold_call = self._reactor.callLater(delay, self._end_hold)

    def _end_hold(self) -> None:
        self.held = False
        self._channel.send_waiting()

    def _watch_nacked(self, due: float) -> None:
        """
        Send nacked messages again at a certain time.
        """
        # But not each message on a new channel of its own.
        due = max(due, self._renewed_at + self._policy.initial_delay)
        call = self._nacked_call
        if call is None or not call.active() or due < call.getTime():
            _stop(call)
            delay = max(due - self._reactor.seconds(), 0.0)
            self._nacked_call = self._reactor.callLater(delay, self._resend_nacked)

    def _resend_nacked(self) -> None:
        full = len(self._retired) >= OLD_CHANNELS_MAX
        if self._channel.has_nacked and not (self._draining or full):
            self._renew_channel()
        now = self._reactor.seconds()
        due = [each for each in self._nacked if each.due <= now]
        for message in due:
            del self._nacked[message]
            message.queued_at = now
        self._put_back(due)
        if self._nacked:
            self._watch_nacked(min(each.due for each in self._nacked))
        self._channel.send_waiting()
        self._watch_blocked()

    # -- what the service tells --------------------------------------------------------

    def _connecting(self, _: str) -> None:
        """
        The service connects, perhaps after it was stopped.
        """
        self._draining = False
        self._resume()

    def _drain(self) -> Deferred[None]:
        """
        The service is being stopped.
        """
        self._draining = True
        return self.when_idle()

    def _block(self, reason: str) -> None:
        """
        The broker takes no messages.
        """
        self._unblock()
        self._blocked_for = reason
        self._blocked_since = self._reactor.seconds()
        if self._blocked_timeout is not None:
            self._blocked_call = self._reactor.callLater(
                self._blocked_timeout, self._fail_blocked
            )

    def _unblock(self, _: object = None) -> None:
        """
        The broker takes messages again.
        """
        self._blocked_for = None
        _stop(self._blocked_call)

    def _watch_blocked(self) -> None:
        """
        Fail the messages in the queue when they have waited long enough.
        """
        timeout, call = self._blocked_timeout, self._blocked_call
        if self._blocked_for is None or timeout is None or not self.queue:
            return
        if call is None or not call.active():
            delay = max(self._blocked_until(timeout) - self._reactor.seconds(), 0.0)
            self._blocked_call = self._reactor.callLater(delay, self._fail_blocked)

    def _blocked_until(self, timeout: float) -> float:
        """
        When the first message of the queue has waited long enough.
        """
        return max(self._blocked_since, next(iter(self.queue)).queued_at) + timeout

    def _fail_blocked(self) -> None:
        reason, timeout = self._blocked_for, self._blocked_timeout
        assert reason is not None and timeout is not None
        now = self._reactor.seconds()
        late = []
        while self.queue and self._blocked_until(timeout) <= now:
            late.append(self.queue.popitem(last=False)[0])
        for message in late:
            self.settle(message, ConnectionBlocked(reason, False))
        for channel in self._channels():
            for message in list(channel.sent):
                self._fail_in_flight(message, ConnectionBlocked(reason, True))
        self._watch_blocked()


def _is_refusal(reason: BaseException) -> bool:
    """
    Whether the broker has ended a channel or connection because of a message.
    """
    if isinstance(reason, ConnectionClosed):
        return not reason.by_us and reason.reply_code not in _INNOCENT
    return isinstance(reason, Closed) and not (reason.by_us or reason.retriable)


def _stop(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()


def _wait_in(line: deque[Deferred[None]]) -> Deferred[None]:
    """
    A Deferred at the end of a waiting line, which it leaves when it is cancelled.
    """
    waiting: Deferred[None] = Deferred(line.remove)
    line.append(waiting)
    return waiting
