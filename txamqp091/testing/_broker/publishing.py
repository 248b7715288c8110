# -*- test-case-name: txamqp091.test.scenarios.test_publishing -*-
"""
What a client publishes on a channel: checked, routed, returned and confirmed.

Direct reply-to is here too.  A channel that consumes from the pseudo-queue `REPLY_TO`
gets an address of its own, which its requests bear as ``reply_to``.  `ReplyAddresses`
knows which channel has which address.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from txamqp091.testing._broker.messages import (
    Message,
    message_from,
    read_property,
    with_properties,
)
from txamqp091.testing._broker.refusals import (
    access_refused,
    not_implemented,
    precondition,
    shown,
)
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties

if TYPE_CHECKING:
    from txamqp091.testing._broker.sessions import ChannelSink, Session

__all__ = ["REPLY_TO", "ChannelPublishes", "ReplyAddresses", "ReplyConsumer"]

#: The name that stands for an address of its own.
REPLY_TO = "amq.rabbitmq.reply-to"


class ReplyConsumer(Protocol):
    """
    A channel that waits for answers.
    """

    def replied(self, message: Message) -> None:
        """
        An answer has come.
        """


class ReplyAddresses:
    """
    The addresses that were given out.
    """

    def __init__(self) -> None:
        self._consumers: dict[str, ReplyConsumer] = {}
        self._given = 0

    def give(self, consumer: ReplyConsumer) -> str:
        """
        A new address for a channel.
        """
        self._given += 1
        address = f"{REPLY_TO}.{self._given:08}.memory"
        self._consumers[address] = consumer
        return address

    def withdraw(self, address: str) -> None:
        """
        Nobody waits at an address any more.
        """
        self._consumers.pop(address, None)

    def find(self, address: str) -> ReplyConsumer | None:
        """
        Who waits at an address, if anyone does.
        """
        return self._consumers.get(address)

    def was_given(self, address: str) -> bool:
        """
        Whether it is an address that somebody has, or had.
        """
        number = address.removeprefix(f"{REPLY_TO}.").removesuffix(".memory")
        return number.isascii() and number.isdigit() and 0 < int(number) <= self._given


class ChannelPublishes:
    """
    The publishing half of a channel.

    :ivar confirming: whether the client is told what became of each publish.
    :ivar reply_address: what takes the place of `REPLY_TO` in requests, or "".
    :ivar is_open: whether the client can still be told anything.
    """

    def __init__(self, session: Session, sink: ChannelSink) -> None:
        self.confirming = False
        self.reply_address = ""
        self.is_open = True
        self._session = session
        self._broker = session.broker
        self._vhost = session.vhost
        self._sink = sink
        self._count = 0
        # Publishes that are not confirmed, the oldest first; and confirms to be sent
        # when the turn ends.
        self._unconfirmed: dict[int, None] = {}
        self._acked: list[int] = []
        self._nacked: list[int] = []

    def accept(
        self, method: spec.BasicPublish, properties: Properties, body: bytes
    ) -> Callable[[], bool]:
        """
        Check a message.

        :returns: what is to be done with it, now or when a transaction is committed;
            that returns whether no queue refused it.
        :raises Refused: nothing is to be done, and the channel is to be closed, or the
            connection.
        """
        if method.immediate:
            raise not_implemented("immediate=true")
        self._check_exchange(method.exchange)
        self._check_properties(properties)
        properties = self._with_reply_address(properties)
        message = message_from(method.exchange, method.routing_key, properties, body)
        mandatory = method.mandatory
        if self.confirming:
            self._count += 1
            self._unconfirmed[self._count] = None
        number = self._count
        return lambda: self._put(message, mandatory, number)

    def _check_exchange(self, name: str) -> None:
        self._session.check("write", "exchange", name)
        if name and self._vhost.exchange(name).internal:
            resource = shown("exchange", name, self._vhost.name)
            raise access_refused(f"cannot publish to internal {resource}")

    def _check_properties(self, properties: Properties) -> None:
        behaviour, name = self._broker.behaviour, self._session.user.name
        user = read_property(properties, "user_id")
        if user not in (None, name):
            raise precondition(
                f"user_id property set to '{user}' but authenticated user was '{name}'"
            )
        mode = read_property(properties, "delivery_mode")
        if behaviour.strict_delivery_mode and mode not in (None, 1, 2):
            raise precondition(f"invalid message: {{delivery_mode_unknown,{mode}}}")

    def _with_reply_address(self, properties: Properties) -> Properties:
        if read_property(properties, "reply_to") != REPLY_TO:
            return properties
        if not self.reply_address:
            raise precondition("fast reply consumer does not exist")
        return with_properties(properties, reply_to=self.reply_address)

    def _put(self, message: Message, mandatory: bool, number: int) -> bool:
        routed, taken = self._broker.put(self._vhost, message)
        if mandatory and not routed and self.is_open:
            self._return(message)
        if self.confirming:
            self._broker.confirm(self, number, taken, routed)
        return taken

    def _return(self, message: Message) -> None:
        method = spec.BasicReturn(
            spec.NO_ROUTE, "NO_ROUTE", message.exchange, message.routing_key
        )
        self._sink.deliver(method, message.properties, message.body)

    def confirm(self, number: int, taken: bool, routed: bool = True) -> None:
        """
        Tell the client the outcome of one publish: at once if there was no queue for
        it, or else when the turn ends.

        :param number: which publish, counted from 1.
        :param taken: whether all of its queues have taken it.
        :param routed: whether there was a queue for it.
        """
        if not self.is_open:
            return
        del self._unconfirmed[number]
        if not routed or not self._broker.multiple_confirms:
            self._send(spec.BasicAck if taken else spec.BasicNack, number)
            return
        is_first = not self._acked and not self._nacked
        (self._acked if taken else self._nacked).append(number)
        if is_first:
            self._session.sink.at_turn_end(self._send_confirms)

    def _send_confirms(self) -> None:
        """
        Send what fell due in this turn, in as few methods as RabbitMQ does.
        """
        if not self.is_open:
            return
        acked, self._acked = sorted(self._acked), []
        nacked, self._nacked = sorted(self._nacked), []
        if len(acked) == 1:
            self._send(spec.BasicAck, acked[0])
        else:
            self._send_many(spec.BasicAck, acked, nacked)
        self._send_many(spec.BasicNack, nacked, acked)

    def _send_many(
        self,
        method: type[spec.BasicAck | spec.BasicNack],
        numbers: list[int],
        others: list[int],
    ) -> None:
        """
        One method for all publishes before which none is open or has another outcome,
        and one method for each publish after that.
        """
        open_ones = (*others[:1], *itertools.islice(self._unconfirmed, 1))
        end = min(open_ones, default=self._count + 1)
        joined = bisect.bisect_left(numbers, end)
        if joined:
            self._send(method, numbers[joined - 1], True)
        for number in numbers[joined:]:
            self._send(method, number)

    def _send(
        self,
        method: type[spec.BasicAck | spec.BasicNack],
        number: int,
        multiple: bool = False,
    ) -> None:
        self._sink.send(method(number, multiple))

    def close(self) -> None:
        """
        The channel has ended: the client cannot be told anything more.
        """
        self.is_open = False
