# -*- test-case-name: txamqp091.test.unit.client.test_acks -*-
"""
Acknowledgements that leave together.

Theory.  What is joined must be settled anyway: an acknowledgement may say ``multiple``
only when no delivery before its own is still with a handler.  So the lowest delivery
tag that is not settled is known here, and an acknowledgement for that one replaces the
one before it, if that has not left yet.  Any other leaves as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from txamqp091.wire import spec
from txamqp091.wire.frames import Piece
from txamqp091.wire.method import Method

__all__ = ["JoinedAcks", "settle_frame"]

# A whole frame: head, class and method, delivery tag, one octet of bits, end.
_PACK_SETTLE = Struct(">BHIHHQBB").pack

_MULTIPLE = 1

#: When so many tags are settled above the lowest one that is not, that one never will
#: be (it was delivered with ``auto_ack``, perhaps), and nothing can be joined.
_HOPELESS = 65536


def settle_frame(
    channel: int, method: type[Method], delivery_tag: int, bits: int
) -> bytes:
    """
    The frame of a ``basic.ack``, a ``basic.nack`` or a ``basic.reject``.
    """
    class_id, method_id = method.identity
    return _PACK_SETTLE(
        spec.FRAME_METHOD,
        channel,
        13,
        class_id,
        method_id,
        delivery_tag,
        bits,
        spec.FRAME_END,
    )


class JoinedAcks:
    """
    The answers for the deliveries of one channel.
    """

    __slots__ = ("_ahead", "_channel", "_frame", "_lowest", "_write")

    def __init__(self, channel: int, write: Callable[[Piece], None]) -> None:
        """
        :param write: sends bytes, and reads them when the turn ends.
        """
        self._channel = channel
        self._write = write
        # The lowest tag that is not settled, and those above it that are.
        self._lowest = 1
        self._ahead: set[int] = set()
        # The last acknowledgement, which may have left or not.
        self._frame = bytearray()

    def settle(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        """
        Send the answer for a delivery; see `settle_frame`.
        """
        joins = delivery_tag == self._lowest and method is spec.BasicAck
        if joins:
            self._frame.clear()  # what it says, this one says too
            bits |= _MULTIPLE
        self._settled(
            delivery_tag, bits & _MULTIPLE != 0 and method is not spec.BasicReject
        )
        frame = settle_frame(self._channel, method, delivery_tag, bits)
        if joins:
            self._frame = joined = bytearray(frame)
            self._write(joined)
        else:
            self._write(frame)

    def _settled(self, delivery_tag: int, multiple: bool) -> None:
        ahead = self._ahead
        if multiple and delivery_tag > self._lowest:
            self._lowest = delivery_tag
            self._ahead = ahead = {tag for tag in ahead if tag > delivery_tag}
        if delivery_tag == self._lowest:
            self._lowest += 1
            while self._lowest in ahead:
                ahead.remove(self._lowest)
                self._lowest += 1
        elif delivery_tag > self._lowest > 0:
            ahead.add(delivery_tag)
            if len(ahead) > _HOPELESS:
                self._lowest = 0
                ahead.clear()
