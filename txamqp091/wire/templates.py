# -*- test-case-name: txamqp091.test.unit.wire.test_templates -*-
"""
Reads messages that are like one before: `Template`.

Theory.  The frames of two deliveries of one consumer differ in the delivery tag, in
``redelivered``, in the routing key, in the properties and in the body.  Where the names
are as long as before, and the encoded properties too, everything else is known octet by
octet, and has passed the general reader once.  One `Struct` reads such a message, and a
few comparisons show that nothing else differs; what differs otherwise goes the general
way.  A delivery costs 0.4 of that then.
"""

from __future__ import annotations

__all__ = ["Take", "Template", "Templates", "template_name"]

from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import Any, Protocol

from txamqp091.wire.spec import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD

_HEAD = Struct(">BHI")
_END = bytes([FRAME_END])

# The octets of a ``basic.deliver`` before its consumer tag: class, method, and the
# length of the tag; and those behind it: delivery tag, bits.
_TAG = 5
_NUMBERS = 9
# The octets of the payload of a header frame: class and weight; the body's size, too.
_CLASS = 4
_HEADER_FIELDS = 12

#: How many templates a channel has.
_TEMPLATES = 256
#: How many messages that have no template a channel with so many templates gets before
#: it forgets those.
_UNLIKE = 65536

#: Takes a delivery: the delivery tag, whether it was redelivered, the payload of the
#: method frame, where in that the exchange and the routing key are, the encoded
#: properties, and the body.
Take = Callable[[int, bool, bytes, int, bytes, bytes], None]


class _Channel(Protocol):
    """
    :ivar content: the method whose content is incomplete; None if there is none.
    :ivar max_body: the largest body that is kept, in octets.
    """

    content: Any
    max_body: int


class _Reader(Protocol):
    """
    :ivar max_payload: the largest payload of a frame that is accepted, in octets.
    :ivar paused: whether no more is to be given out.
    """

    max_payload: int
    paused: bool


@lru_cache(maxsize=1024)
def _layout(head: int, middle: int, properties: int) -> Struct:
    """
    Head, delivery tag, bits, middle, the size of the body, properties, seam, and the
    size of the body frame.
    """
    return Struct(f">{head}sQB{middle}sQ{properties}s4sI")


def template_name(channel: int, method: bytes, header: bytes) -> bytes:
    """
    The octets in the frames of a delivery by which `FrameReader` finds the template:
    the head, class and method, the consumer tag, and the size of the header frame.
    """
    return b"".join(
        (
            _HEAD.pack(FRAME_METHOD, channel, len(method)),
            method[: _TAG + method[4]],
            len(header).to_bytes(4, "big"),
        )
    )


class Template:
    """
    The frames of a delivery, in one piece, as the next ones of its consumer may be.

    :ivar channel: the channel.
    :ivar valid: whether the next deliveries go to the same function.
    """

    __slots__ = (
        "_exchange",
        "_head",
        "_key",
        "_length",
        "_method",
        "_middle",
        "_route",
        "_seam",
        "_second",
        "_size",
        "_tail",
        "_take",
        "_unpack",
        "channel",
        "valid",
    )

    def __init__(
        self,
        channel: _Channel,
        number: int,
        method: bytes,
        header: bytes,
        take: Take,
    ) -> None:
        """
        :param number: the number of the channel.
        :param method: the payload of the method frame of a delivery.
        :param header: the payload of its header frame.
        :param take: takes the deliveries.
        """
        tag = _TAG + method[4]
        self._route = tag + _NUMBERS
        self._head = _HEAD.pack(FRAME_METHOD, number, len(method)) + method[:tag]
        self._tail = b"".join(
            (
                _END,
                _HEAD.pack(FRAME_HEADER, number, len(header)),
                header[:_CLASS],
            )
        )
        self._middle = middle = method[self._route :] + self._tail
        self._seam = _END + bytes([FRAME_BODY]) + number.to_bytes(2, "big")
        # The length of the exchange's name, and where the length of the routing key is,
        # and that.
        self._exchange = middle[0]
        self._second = 1 + middle[0]
        self._key = middle[self._second]
        self._method = method
        self._length = len(method)
        self._take = take
        layout = _layout(len(self._head), len(middle), len(header) - _HEADER_FIELDS)
        self._unpack = layout.unpack_from
        self._size = layout.size
        self.channel = channel
        self.valid = True

    def read(self, data: bytes, position: int, reader: _Reader) -> int:
        """
        Give out the messages that are like this template.

        :param position: where in ``data`` the first one may begin.
        :returns: where the first one begins that is not.
        """
        unpack, take, size, end_octet = self._unpack, self._take, len(data), FRAME_END
        limit = min(reader.max_payload, self.channel.max_body)
        while (start := position + self._size) < size:
            head, tag, bits, middle, whole, properties, seam, length = unpack(
                data, position
            )
            end = start + length
            if not (
                head == self._head
                and seam == self._seam
                and whole == length
                and 0 < length <= limit
                and end < size
                and data[end] == end_octet
            ):
                break
            if middle == self._middle:
                method = self._method
            elif (
                middle[0] == self._exchange
                and middle[self._second] == self._key
                and middle.endswith(self._tail)
            ):
                begin = position + 7
                method = data[begin : begin + self._length]
            else:
                break
            position = end + 1
            take(tag, bits & 1 != 0, method, self._route, properties, data[start:end])
            if reader.paused or not self.valid:
                break
        return position


class Templates:
    """
    The templates of one channel.
    """

    __slots__ = ("_all", "_own", "_unlike")

    def __init__(self, templates: dict[bytes, Template]) -> None:
        """
        :param templates: the templates of all channels, by name.
        """
        self._all = templates
        self._own: list[bytes] = []
        self._unlike = 0

    def learn(
        self,
        channel: _Channel,
        number: int,
        method: bytes,
        header: bytes,
        take: Take,
    ) -> None:
        """
        Have the next messages that are like one read by a template; see `Template`.
        """
        name = template_name(number, method, header)
        if name in self._all:
            return
        if len(self._own) >= _TEMPLATES:
            self._unlike += 1
            if self._unlike < _UNLIKE:
                return
            self.forget()
        self._all[name] = Template(channel, number, method, header, take)
        self._own.append(name)

    def forget(self) -> None:
        """
        Have all messages read the general way, as their receivers may be others.
        """
        own, self._own = self._own, []
        self._unlike = 0
        for name in own:
            self._all.pop(name).valid = False
