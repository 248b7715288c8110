# -*- test-case-name: txamqp091.test.unit.machine.test_confirms -*-
"""
Which message does a confirm belong to?

In confirm mode the broker counts the messages of a channel, from the moment that
it reads ``confirm.select``, and answers for each number: ``basic.ack`` or
``basic.nack``, in any order, one at a time or all up to a number.  A message that
had to be routed and could not be comes back first, as ``basic.return``, which bears
no number.

Returned messages are told apart thus.  They come in the order in which they were
published, each before its own confirm.  So a return belongs to the first mandatory
message that has no answer yet and has the same exchange, routing key and body; and
those before it will not come back any more.  Two messages that are alike in all three
may be swapped, which nobody can tell.
"""

from __future__ import annotations

from txamqp091._machine.sinks import ReplyHandle
from txamqp091.errors import AMQPError, CommandInvalid, Nacked, Returned

__all__ = ["Confirms"]

#: How many octets of a body tell it from most others.
_BEGINNING = 64

#: What a returned message and a published one have in common: exchange, routing key,
#: and the size and the beginning of the body.
_Likeness = tuple[str, str, int, bytes]

#: Bodies up to this size are not worth adding up, as so few of them are waited for.
_LARGE = 4096


class Confirms:
    """
    The unconfirmed messages of one channel.

    :ivar published: how many messages were published; also the last one's number.
    :ivar outstanding: who waits for each number that has no answer yet.
    :ivar size: the bytes of all those bodies, as far as they are large.
    """

    __slots__ = (
        "_alike",
        "_large",
        "_last_returned",
        "_lowest",
        "_mandatory",
        "_returned",
        "outstanding",
        "published",
        "size",
    )

    def __init__(self) -> None:
        self.published = 0
        self.outstanding: dict[int, ReplyHandle] = {}
        self.size = 0
        self._large: dict[int, int] = {}
        # No number below this one is outstanding.
        self._lowest = 1
        # Of each mandatory message that is outstanding, and has not come back: what is
        # alike in few; and by that, the bodies, in order.
        self._mandatory: dict[int, _Likeness] = {}
        self._alike: dict[_Likeness, dict[int, bytes]] = {}
        # Those up to this one will not come back any more.
        self._last_returned = 0
        self._returned: dict[int, Returned] = {}

    def publish(self, handle: ReplyHandle, size: int = 0) -> None:
        """
        Count a message; ``handle`` waits for the answer.

        :param size: the bytes of its body.
        """
        self.published = number = self.published + 1
        self.outstanding[number] = handle
        if size > _LARGE:
            self._large[number] = size
            self.size += size

    def publish_mandatory(
        self, handle: ReplyHandle, exchange: str, routing_key: str, body: bytes
    ) -> None:
        """
        Count a message that may come back.
        """
        self.publish(handle, len(body))
        likeness = (exchange, routing_key, len(body), body[:_BEGINNING])
        self._mandatory[self.published] = likeness
        self._alike.setdefault(likeness, {})[self.published] = body

    def returned(
        self, exchange: str, routing_key: str, body: bytes, error: Returned
    ) -> None:
        """
        Find the message that came back, and keep the error until its confirm.
        """
        likeness = (exchange, routing_key, len(body), body[:_BEGINNING])
        for number, published in list(self._alike.get(likeness, {}).items()):
            late = number <= self._last_returned
            if late or published == body:
                self._forget(number)
            if not late and published == body:
                self._returned[number] = error
                self._last_returned = number
                return

    def _forget(self, number: int) -> None:
        """
        A mandatory message will not come back any more.
        """
        likeness = self._mandatory.pop(number, None)
        if likeness is not None:
            alike = self._alike[likeness]
            del alike[number]
            if not alike:
                del self._alike[likeness]

    def settle(self, number: int, multiple: bool, positive: bool) -> None:
        """
        The broker has answered for one message, or for all up to one.  Zero, with
        ``multiple``, is all.

        :raises CommandInvalid: for a message that was not published.
        """
        last = self.published
        if multiple and not number:
            number = last
        if not 0 < number <= last:
            raise CommandInvalid(f"a confirm for the message {number} of {last}")
        if not multiple:
            if number == self._lowest:
                # Keep up, so that a `multiple` much later has little to look at.
                outstanding, number_after = self.outstanding, number + 1
                while number_after <= last and number_after not in outstanding:
                    number_after += 1
                self._lowest = number_after
            self._settle(number, positive)
            return
        first, self._lowest = self._lowest, max(number + 1, self._lowest)
        for each in range(first, number + 1):
            self._settle(each, positive)

    def _settle(self, number: int, positive: bool) -> None:
        handle = self.outstanding.pop(number, None)
        if handle is None:
            return  # answered before: `multiple` covers it, or the broker repeats
        if self._mandatory:
            self._forget(number)
        if self._large:
            self.size -= self._large.pop(number, 0)
        error = self._returned.pop(number, None) if self._returned else None
        if error is not None:
            handle.errback(error)
        elif positive:
            handle.callback(None)
        else:
            handle.errback(Nacked())

    def fail(self, reason: AMQPError) -> None:
        """
        Tell all who wait that no answer will come.
        """
        outstanding, self.outstanding = self.outstanding, {}
        self._large.clear()
        self.size = 0
        returned, self._returned = self._returned, {}
        self._mandatory.clear()
        self._alike.clear()
        for number, handle in outstanding.items():
            handle.errback(returned.get(number, reason).with_traceback(None))
