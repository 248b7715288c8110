# -*- test-case-name: txamqp091.test.unit.service.test_publisher -*-
"""
What a publisher is made of: a `Letter` is one message until its fate is known, and an
`Outlet` is a channel that letters leave by.  What is done with those that come back is
in `txamqp091.service.outbox`.

Theory.  A letter is in one place at a time: in the queue; in an outlet, sent and not
answered for; or put aside, for another try.  If it has left, it is there until the
broker has answered for it, also if nobody waits for that any more.  An outlet lasts as
long as its channel serves: when a channel has ended alone, or is not to be trusted any
more, there is a new outlet, and the old one stays until all its letters are answered
for.  It gives back those for which no answer will come.

The first letter of a channel goes alone.  While the leader of a quorum queue is frozen,
RabbitMQ has a new channel wait for 65 seconds with all that is published there, though
another channel is served as soon as there is another leader; and if that is much, it
reads nothing any more from the whole connection.
"""

from __future__ import annotations

__all__ = ["REPUBLISHED", "Correspondent", "Letter", "Outlet"]

from collections import OrderedDict
from typing import Protocol

from twisted.internet.defer import Deferred

from txamqp091._channel_publisher import ChannelPublisher
from txamqp091.channel import Channel
from txamqp091.errors import AMQPError, Nacked, Returned, UndecodableProperty
from txamqp091.service.recovering_channel import RecoveringChannel
from txamqp091.wire.properties import Properties

#: The header of a message that was sent before, and may have arrived.
REPUBLISHED = "x-republished"


class Correspondent(Protocol):
    """
    Whom letters and outlets tell what has happened.

    :ivar queue: the letters that wait to be sent, in order.
    :ivar held: whether nothing is to be sent for now.
    """

    queue: OrderedDict[Letter, None]
    held: bool

    def withdrawn(self, letter: Letter) -> None:
        """
        Nobody wants to know its fate any more.  If it has left, it counts until it is
        answered for.
        """

    def confirmed(self, letter: Letter) -> None:
        """
        The broker has it.
        """

    def nacked(self, letter: Letter, outlet: Outlet) -> None:
        """
        The broker could not keep it.
        """

    def failed(self, letter: Letter, error: BaseException) -> None:
        """
        It will not be sent again, and this is why.
        """

    def lost(self, letter: Letter, reason: AMQPError) -> bool:
        """
        There will be no answer.

        :returns: whether to give it back when the outlet has ended.
        """

    def trying(self, outlet: Outlet) -> None:
        """
        The first letter has left by a new channel.
        """

    def idle(self, outlet: Outlet) -> None:
        """
        All that had left is answered for.
        """

    def closed(
        self, outlet: Outlet, letters: list[Letter], reason: BaseException
    ) -> None:
        """
        An outlet has no channel any more.

        :param letters: those for which there will be no answer.
        """

    def abandoned(self, outlet: Outlet, reason: BaseException) -> None:
        """
        An outlet will never have a channel.
        """


class Letter:
    """
    A message on its way.  Its outlet's channel calls `callback` or `errback`.

    :ivar number: its place among all of its publisher's.
    :ivar encoded: its properties, as they go on the wire.
    :ivar size: how much it counts for.
    :ivar deferred: tells its fate.
    :ivar queued_at: since when it waits to be sent.
    :ivar due: if it was put aside, until when.
    :ivar nacks: how often the broker could not keep it.
    :ivar suspect: whether the broker may have closed a channel because of it: it goes
        alone.
    :ivar outlet: the outlet that it has left by.
    """

    __slots__ = (
        "_correspondent",
        "_properties",
        "body",
        "deferred",
        "due",
        "encoded",
        "exchange",
        "mandatory",
        "nacks",
        "number",
        "outlet",
        "queued_at",
        "routing_key",
        "size",
        "suspect",
    )

    def __init__(
        self,
        correspondent: Correspondent,
        number: int,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: Properties,
        mandatory: bool,
    ) -> None:
        self._correspondent = correspondent
        self.number = number
        self.exchange = exchange
        self.routing_key = routing_key
        self.body = body
        self._properties: Properties | None = properties
        self.encoded = properties.encoded
        self.mandatory = mandatory
        self.size = len(body) + len(self.encoded)
        self.deferred: Deferred[None] = Deferred(self._cancel)
        self.queued_at = 0.0
        self.due = 0.0
        self.nacks = 0
        self.suspect = False
        self.outlet: Outlet | None = None

    def __lt__(self, other: Letter) -> bool:
        return self.number < other.number

    @property
    def is_wanted(self) -> bool:
        """
        Whether somebody still waits for its fate.
        """
        return not self.deferred.called

    def mark(self) -> None:
        """
        It will be sent again: say so in its headers.
        """
        properties, self._properties = self._properties, None
        if properties is None:
            return  # it says so already
        try:
            headers = {**(properties.headers or {}), REPUBLISHED: True}
            self.encoded = properties.replace(headers=headers).encoded
        except (AMQPError, UndecodableProperty):
            pass  # it came from elsewhere, and goes as it came

    def _cancel(self, _: Deferred[None]) -> None:
        self._correspondent.withdrawn(self)

    # -- what the channel calls: see `ReplyHandle` -----------------------------------

    def callback(self, result: object) -> None:
        """
        The broker has it.
        """
        outlet = self._leave()
        self._correspondent.confirmed(self)
        if not outlet.sent:
            outlet.emptied()

    def errback(self, error: BaseException) -> None:
        """
        The broker has not got it, or it is not known.
        """
        outlet = self._leave()
        if isinstance(error, Nacked):
            self._correspondent.nacked(self, outlet)
        elif isinstance(error, Returned) or not isinstance(error, AMQPError):
            self._correspondent.failed(self, error)
        else:
            if self._correspondent.lost(self, error):
                outlet.give_back(self, error)
            return  # and the outlet's end is told by its channel
        if not outlet.sent:
            outlet.emptied()

    def _leave(self) -> Outlet:
        outlet = self.outlet
        assert outlet is not None
        del outlet.sent[self]
        outlet.proven = True
        return outlet


class Outlet:
    """
    A channel in confirm mode, for as long as it serves.

    :ivar sent: the letters that have left and are not answered for, in order.
    :ivar channel: the channel.
    :ivar retired: whether it takes no more letters.
    :ivar suspected: whether a message was nacked here, and the rest may be.
    :ivar proven: whether the present channel has answered for a letter.
    """

    def __init__(
        self, correspondent: Correspondent, channel: RecoveringChannel
    ) -> None:
        self.sent: dict[Letter, None] = {}
        self.channel = channel
        self.retired = False
        self.suspected = False
        self.proven = False
        self._correspondent = correspondent
        self._sender: ChannelPublisher | None = None
        self._lost: list[Letter] = []
        # Whether the letter that has left is to be alone.
        self._alone = False
        # Whether the sender knows that there is more.
        self._waiting = False
        self._forget = channel.observe(opened=self._opened, closed=self._closed)

    def watch(self) -> None:
        """
        Have it told when there will be no channel.
        """
        self.channel.when_open().addCallbacks(lambda _: None, self._abandoned)

    @property
    def may_send(self) -> bool:
        """
        Whether a letter that nobody suspects may leave at once.
        """
        sender = self._sender
        return (
            sender is not None
            and sender.may_send
            and sender.is_open
            and (self.proven or not self.sent)
            and not (self._alone or self.retired or self._correspondent.held)
        )

    def send(self, letter: Letter) -> None:
        """
        Let a letter leave.
        """
        sender = self._sender
        assert sender is not None
        letter.outlet = self
        self.sent[letter] = None
        try:
            sender.send(
                letter.exchange,
                letter.routing_key,
                letter.body,
                letter.encoded,
                letter.mandatory,
                letter,
            )
        except AMQPError as error:  # such as too many headers for a frame
            del self.sent[letter]
            self._alone = False
            self._correspondent.failed(letter, error)
        else:
            if not self.proven:
                self._correspondent.trying(self)

    def pump(self) -> None:
        """
        Let all leave that may.
        """
        sender = self._sender
        if sender is None or self._waiting:
            return
        self._waiting = True
        if self._send():
            self._waiting = False
        elif sender is self._sender:
            sender.wait(self)

    def _send(self) -> bool:
        """
        :returns: whether there is nothing left that only waits for its turn.
        """
        queue = self._correspondent.queue
        while queue and not (self._alone or self.retired or self._correspondent.held):
            if self.sent and not self.proven:
                return True  # until that is answered for
            if not self.may_send:
                return False
            if next(iter(queue)).suspect:
                if self.sent:
                    return True
                self._alone = True
            letter, _ = queue.popitem(last=False)
            self.send(letter)
        return True

    def emptied(self) -> None:
        """
        What has left is answered for.
        """
        self._alone = False
        self._correspondent.idle(self)

    def give_back(self, letter: Letter, reason: AMQPError) -> None:
        """
        There will be no answer for a letter.
        """
        if self._sender is not None:
            self._lost.append(letter)
        else:  # it has ended, as far as anybody knows
            self._correspondent.closed(self, [letter], reason)

    def retire(self) -> None:
        """
        Take no more letters.
        """
        self.retired = True
        if not self.sent:
            self.close()

    def close(self) -> None:
        """
        Take no more letters, and close the channel.
        """
        self.retired = True
        self._forget()
        self.channel.close()
        self._sender = None

    # -- what the publisher of the channel calls: see its `Waiting` ------------------

    def go(self) -> bool:
        """
        Let all leave that may.
        """
        done = self._send()
        self._waiting = not done
        return done

    def fail(self, reason: AMQPError) -> None:
        """
        The channel has ended; it tells us later.
        """
        self._waiting = False

    # -- what the channel tells --------------------------------------------------------

    def _opened(self, channel: Channel) -> None:
        self._sender = channel.publisher
        self._waiting = self.proven = False
        self.pump()

    def _closed(self, reason: BaseException) -> None:
        self._sender = None
        self._alone = self._waiting = False
        lost, self._lost = self._lost, []
        self._correspondent.closed(self, lost, reason)

    def _abandoned(self, failure: object) -> None:
        if not self.retired:
            reason = getattr(failure, "value", None)
            assert isinstance(reason, BaseException)
            self._correspondent.abandoned(self, reason)
