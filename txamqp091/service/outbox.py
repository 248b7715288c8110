# -*- test-case-name: txamqp091.test.unit.service.test_outbox -*-
"""
Which message is sent next, and which again, when, and by which channel: `Dispatcher`.

Theory.  What comes back unanswered, since a channel or the connection has ended, goes
to the front of the queue, in its old order, or has failed.  What was nacked is put
aside, and then goes there too; by then there is another channel, as RabbitMQ 3.10 may
nack for ever what is published on a channel that once had to do with a quorum queue
without a leader.

A channel on which the broker does not answer for the first letter is given up: see
`txamqp091.service.outgoing`.  If it has answered, and does so for nothing any more, it
is the connection that is given up: RabbitMQ 4.3 may keep for ever what was on its way
to a quorum queue that was deleted and made anew, and reads nothing then.

When the broker has closed a channel for something that was published, it does not say
for what.  If it was the only message that had no answer, that one has failed.  If not,
all of them are *suspects*: they are sent again one by one, so that the next one that
costs a channel is the only one.
"""

from __future__ import annotations

__all__ = ["Dispatcher", "DispatcherSink"]

from collections import OrderedDict
from heapq import merge
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from txamqp091.errors import (
    AMQPError,
    ChannelClosed,
    Closed,
    ConnectionBlocked,
    ConnectionClosed,
    Nacked,
    NotFound,
    printable,
)
from txamqp091.service.client import AMQPClientService
from txamqp091.service.outgoing import Letter, Outlet
from txamqp091.service.retry import RetryPolicy

_log = Logger(namespace="txamqp091.service")

#: How long to wait before the next channel is used, when the broker has closed one.
_REOPENED_AFTER = RetryPolicy(initial_delay=0.05, max_delay=2.0)

#: How long the first letter of a channel waits for its answer, in seconds, before
#: another channel is tried, and the next ones.
_FIRST_ANSWER = RetryPolicy(initial_delay=2.0, factor=1.25, max_delay=30.0, jitter=0.0)

#: After how many seconds without any answer, though messages have left, the connection
#: is given up.
_SILENCE = 30.0

#: How many channels may be there that were given up and are still owed answers.
_RETIRED_MAX = 8

#: The ends of connections that have nothing to do with what was published.
_INNOCENT = (0, 200, 320)


class DispatcherSink(Protocol):
    """
    Who is told what becomes of letters.
    """

    def settled(self, letter: Letter, error: BaseException | None = None) -> None:
        """
        A letter is dealt with, well or not.
        """

    def despaired(self, letter: Letter, error: BaseException) -> None:
        """
        A letter is still out there, but nobody shall wait for it any longer.
        """

    def over(self, reason: AMQPError) -> None:
        """
        There is nobody to publish to any more, unless the service is started again.
        """

    def begun(self) -> None:
        """
        It is.
        """

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when every letter is dealt with.
        """


class Dispatcher:
    """
    Sends letters, until they are confirmed or there is no hope.

    :ivar queue: the letters that wait to be sent, in order.
    :ivar held: whether nothing is to be sent for now.
    :ivar confirms: how many messages the broker has taken.
    :ivar nacks: how often it could not keep one.
    :ivar republished: how often one was sent again.
    """

    def __init__(
        self,
        service: AMQPClientService,
        sink: DispatcherSink,
        *,
        resends: bool,
        window: int,
        blocked_timeout: float | None,
        policy: RetryPolicy,
    ) -> None:
        """
        :param resends: whether what was lost on its way is sent again.
        :param window: how many messages may be unconfirmed.
        :param blocked_timeout: how many seconds a message waits while the broker
            blocks.
        :param policy: when what was nacked is sent again.
        """
        self.queue: OrderedDict[Letter, None] = OrderedDict()
        self.held = False
        self.nacks = 0
        self.republished = 0
        self.confirms = 0
        self._service = service
        self._reactor = service.reactor
        self._sink = sink
        self._resends = resends
        self._window = window
        self._blocked_timeout = blocked_timeout
        self._policy = policy
        self._draining = False
        self._abandoned = False
        self._aside: dict[Letter, None] = {}
        self._aside_call: IDelayedCall | None = None
        self._renewed_at = 0.0
        # How many channels have ended alone since one took a message.
        self._deaths = 0
        self._hold_call: IDelayedCall | None = None
        self._trying_call: IDelayedCall | None = None
        # When to look whether there were answers, and what there was the last time.
        self._silence_call: IDelayedCall | None = None
        self._oldest: tuple[Letter | None, int] = None, 0
        self._blocked_for: str | None = None
        self._blocked_since = 0.0
        self._blocked_call: IDelayedCall | None = None
        self._retired: dict[Outlet, None] = {}
        self._outlet = self._new_outlet()
        self._stop_observing = service.observe(
            connecting=self._connecting,
            blocked=self._block,
            unblocked=self._unblock,
            lost=self._unblock,
            draining=self._drain,
        )

    @property
    def unconfirmed(self) -> int:
        """
        How many messages have left and are not answered for.
        """
        return sum(len(each.sent) for each in self._outlets())

    def post(self, letter: Letter) -> None:
        """
        Send a letter, now or later.
        """
        outlet = self._outlet
        if not self.queue and outlet.may_send:
            outlet.send(letter)
        else:
            letter.queued_at = self._reactor.seconds()
            self.queue[letter] = None
            outlet.pump()
            self._watch_blocked()

    def give_up(self, reason: AMQPError) -> None:
        """
        Whatever is there has failed.
        """
        for call in (
            self._aside_call,
            self._hold_call,
            self._trying_call,
            self._silence_call,
            self._blocked_call,
        ):
            _stop(call)
        self._blocked_for = None
        self.held = False
        letters = [*self.queue, *self._aside]
        self.queue.clear()
        self._aside.clear()
        for letter in letters:
            self._sink.settled(letter, reason)
        for outlet in self._outlets():
            for letter in list(outlet.sent):
                self._sink.despaired(letter, reason)

    def look_again(self) -> None:
        """
        See whether the service was started again.
        """
        if self._abandoned:
            self._abandoned = False
            self._outlet.watch()
            if not self._abandoned:
                self._draining = False
                self._sink.begun()

    def close(self) -> None:
        """
        Send nothing more.
        """
        self._stop_observing()
        _stop(self._trying_call)
        _stop(self._silence_call)
        for outlet in self._outlets():
            outlet.close()
        self._retired.clear()

    def _outlets(self) -> list[Outlet]:
        return [self._outlet, *self._retired]

    # -- what letters and outlets call: see `Correspondent` ----------------------------

    def withdrawn(self, letter: Letter) -> None:
        """
        See `Correspondent`.
        """
        if letter in self.queue:
            del self.queue[letter]
        elif letter in self._aside:
            del self._aside[letter]
        else:
            return
        letter.deferred.errback(CancelledError())
        self._sink.settled(letter)

    def confirmed(self, letter: Letter) -> None:
        """
        See `Correspondent`.
        """
        self.confirms += 1
        self._deaths = 0
        self._sink.settled(letter)

    def failed(self, letter: Letter, error: BaseException) -> None:
        """
        See `Correspondent`.
        """
        self._sink.settled(letter, error)

    def nacked(self, letter: Letter, outlet: Outlet) -> None:
        """
        See `Correspondent`.
        """
        self.nacks += 1
        letter.nacks += 1
        outlet.suspected = True
        attempts = self._policy.max_attempts
        if not letter.is_wanted:
            self._sink.settled(letter)
        elif attempts is not None and letter.nacks >= attempts:
            self._sink.settled(letter, Nacked())
        else:
            letter.due = self._reactor.seconds() + self._policy.delay(letter.nacks)
            self._aside[letter] = None
            self._watch_aside(letter.due)

    def lost(self, letter: Letter, reason: AMQPError) -> bool:
        """
        See `Correspondent`.
        """
        if self._resends and letter.is_wanted:
            return True
        self._sink.settled(letter, reason)
        return False

    def trying(self, outlet: Outlet) -> None:
        """
        See `Correspondent`.
        """
        _stop(self._trying_call)
        patience = _FIRST_ANSWER.delay(self._deaths + 1)
        self._trying_call = self._reactor.callLater(patience, self._tried, outlet)
        if self._silence_call is None or not self._silence_call.active():
            self._listen()

    def _listen(self) -> None:
        """
        There should have been an answer since the last time, if a letter was there.
        """
        self._silence_call = self._reactor.callLater(_SILENCE, self._listen)
        outlet, connection = self._outlet, self._service.connection
        before, self._oldest = self._oldest, (None, 0)
        if self._blocked_for is not None or self._draining or not outlet.proven:
            return
        oldest = next(iter(outlet.sent), None)
        self._oldest = oldest, self.confirms + self.nacks
        if oldest is None or before != self._oldest or connection is None:
            return
        _log.warn(
            "No answer to what was published in {seconds} s: connecting anew",
            seconds=_SILENCE,
        )
        connection.close(reply_text="no answer to what was published")

    def _tried(self, outlet: Outlet) -> None:
        """
        There should have been an answer on a new channel.
        """
        if outlet is not self._outlet or outlet.proven or self._draining:
            return
        if self._blocked_for is not None:  # then nothing is answered for
            self.trying(outlet)
        else:
            problem = "no answer to the first message on a channel"
            outlet.channel.abandon(ChannelClosed(problem, by_us=True))

    def idle(self, outlet: Outlet) -> None:
        """
        See `Correspondent`.
        """
        if outlet is self._outlet:
            _stop(self._trying_call)
        if outlet.retired:
            self._retired.pop(outlet, None)
            outlet.close()
        else:
            outlet.pump()

    def closed(
        self, outlet: Outlet, letters: list[Letter], reason: BaseException
    ) -> None:
        """
        See `Correspondent`.
        """
        if outlet is self._outlet:
            _stop(self._trying_call)
        hopeless, again = self._sort_out(letters, reason)
        self._put_back(again)
        if outlet.retired:
            self._retired.pop(outlet, None)
            outlet.close()
        elif isinstance(reason, ChannelClosed) and not self._draining:
            self._reopen(reason)
        else:
            outlet.watch()
        for letter in hopeless:
            self._sink.settled(letter, reason)
        self._outlet.pump()

    def abandoned(self, outlet: Outlet, reason: BaseException) -> None:
        """
        See `Correspondent`.
        """
        self._abandoned = True
        if not isinstance(reason, AMQPError):
            reason = ConnectionClosed(str(reason), by_us=True)
        self._sink.over(reason)
        self.give_up(reason)

    # -- sending again -----------------------------------------------------------------

    def _sort_out(
        self, letters: list[Letter], reason: BaseException
    ) -> tuple[list[Letter], list[Letter]]:
        """
        Which of those that were lost have cost us the channel, and which are to be sent
        again.
        """
        if not _is_refusal(reason):
            return [], letters
        if isinstance(reason, NotFound):
            # The one case where the broker does say for what.
            text = f"{reason.reply_text} "
            missing = [each for each in letters if f"'{each.exchange}' " in text]
            if missing:
                return missing, [each for each in letters if each not in missing]
        if len(letters) == 1:
            return letters, []
        for letter in letters:
            letter.suspect = True
        return [], letters

    def _put_back(self, letters: list[Letter]) -> None:
        """
        Have letters sent again, before all that is younger.
        """
        again = []
        for letter in letters:
            if letter.is_wanted:
                letter.mark()
                self.republished += 1
                again.append(letter)
            else:
                self._sink.settled(letter)
        if not again:
            return
        again.sort()
        queue = self.queue
        if not queue or again[-1] < next(iter(queue)):
            for letter in reversed(again):
                queue[letter] = None
                queue.move_to_end(letter, last=False)
        else:
            merged = list(merge(again, queue))
            queue.clear()
            queue.update(dict.fromkeys(merged))

    def _new_outlet(self) -> Outlet:
        channel = self._service.channel(confirm=True, window=self._window)
        outlet = Outlet(self, channel)
        outlet.watch()
        return outlet

    def _renew(self) -> None:
        """
        Take another channel.
        """
        outlet, self._outlet = self._outlet, self._new_outlet()
        self._renewed_at = self._reactor.seconds()
        if outlet.sent:
            self._retired[outlet] = None
        outlet.retire()

    def _reopen(self, reason: ChannelClosed) -> None:
        """
        The broker has closed the channel: take another one, a little later.
        """
        self._deaths += 1
        delay = _REOPENED_AFTER.delay(self._deaths)
        _log.warn(
            "A channel for publishing has ended, and another one is used in "
            "{delay:.2f} s: {error}",
            delay=delay,
            error=printable(str(reason)),
        )
        self._renew()
        self.held = True
        _stop(self._hold_call)
        self._hold_call = self._reactor.callLater(delay, self._go_on)

    def _go_on(self) -> None:
        self.held = False
        self._outlet.pump()

    def _watch_aside(self, due: float) -> None:
        """
        Something is to be tried again at a certain time.
        """
        # But not each message on a new channel of its own.
        due = max(due, self._renewed_at + self._policy.initial_delay)
        call = self._aside_call
        if call is None or not call.active() or due < call.getTime():
            _stop(call)
            delay = max(due - self._reactor.seconds(), 0.0)
            self._aside_call = self._reactor.callLater(delay, self._try_again)

    def _try_again(self) -> None:
        """
        Send what was nacked, on a new channel.
        """
        trusted = not self._outlet.suspected
        if not (trusted or self._draining or len(self._retired) >= _RETIRED_MAX):
            self._renew()
        now = self._reactor.seconds()
        due = [each for each in self._aside if each.due <= now]
        for letter in due:
            del self._aside[letter]
            letter.queued_at = now
        self._put_back(due)
        if self._aside:
            self._watch_aside(min(each.due for each in self._aside))
        self._outlet.pump()
        self._watch_blocked()

    # -- what the service tells --------------------------------------------------------

    def _connecting(self, _: str) -> None:
        """
        The service tries to connect, perhaps after it was stopped.
        """
        self._draining = False
        self.look_again()

    def _drain(self) -> Deferred[None]:
        """
        The service is being stopped.
        """
        self._draining = True
        return self._sink.when_idle()

    def _block(self, reason: str) -> None:
        """
        The broker takes no messages, and this is why.
        """
        self._unblock()
        self._blocked_for = reason
        self._blocked_since = self._reactor.seconds()
        if self._blocked_timeout is not None:
            self._blocked_call = self._reactor.callLater(
                self._blocked_timeout, self._blocked_too_long
            )

    def _unblock(self, _: object = None) -> None:
        """
        It does again.
        """
        self._blocked_for = None
        _stop(self._blocked_call)

    def _watch_blocked(self) -> None:
        """
        A letter waits.
        """
        timeout, call = self._blocked_timeout, self._blocked_call
        if self._blocked_for is None or timeout is None or not self.queue:
            return
        if call is None or not call.active():
            delay = max(self._blocked_until(timeout) - self._reactor.seconds(), 0.0)
            self._blocked_call = self._reactor.callLater(delay, self._blocked_too_long)

    def _blocked_until(self, timeout: float) -> float:
        """
        How long the first letter of the queue waits for the broker.
        """
        return max(self._blocked_since, next(iter(self.queue)).queued_at) + timeout

    def _blocked_too_long(self) -> None:
        reason, timeout = self._blocked_for, self._blocked_timeout
        assert reason is not None and timeout is not None
        now = self._reactor.seconds()
        late = []
        while self.queue and self._blocked_until(timeout) <= now:
            late.append(self.queue.popitem(last=False)[0])
        for letter in late:
            self._sink.settled(letter, ConnectionBlocked(reason, False))
        for outlet in self._outlets():
            for letter in list(outlet.sent):
                self._sink.despaired(letter, ConnectionBlocked(reason, True))
        self._watch_blocked()


def _is_refusal(reason: BaseException) -> bool:
    """
    Whether the broker has ended a channel, or the connection, because of something that
    was sent.
    """
    if isinstance(reason, ConnectionClosed):
        return not reason.by_us and reason.reply_code not in _INNOCENT
    return isinstance(reason, Closed) and not (reason.by_us or reason.retriable)


def _stop(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
