# -*- test-case-name: txamqp091.test.unit.machine.test_channel -*-
"""
What both ends of a channel share: putting a method's content together.

Theory.  What a frame may be next is the bound method in ``expect``: a method, the
header of the content that a method announced, or (more of) its body.  A method with
content is judged when it comes, and acted upon when its content is there.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Any, ClassVar

from txamqp091.errors import DecodeError, FrameError, UnexpectedFrame
from txamqp091.wire import spec
from txamqp091.wire.frames import MESSAGE, frame_name

__all__ = ["Assembler", "Finish"]

_UNPACK_HEADER = Struct(">HHQH").unpack_from
_CONTENT_CLASS = spec.BasicDeliver.identity[0]

#: The largest buffer that is kept for the next large body.
_SPARE_SIZE = 16 << 20

#: What is done with a content: it is given what `Assembler.begin` was, the payload of
#: the header frame, and the body, or None for a body that was not kept.
Finish = Callable[[Any, bytes, bytes | None], None]


class Assembler:
    """
    Takes the frames of one channel.

    :ivar expect: takes the next frame, as its type and payload; see
        `FrameReader.feed`.
    :ivar content: the method whose content is incomplete; None if there is none.
    :ivar max_body: the largest body that is kept, in octets.
    :cvar impossible: the size of a body that no peer can mean, in octets.
    """

    impossible: ClassVar[int] = 1 << 64

    __slots__ = (
        "_body",
        "_finish",
        "_header",
        "_kept",
        "_keep",
        "_left",
        "_size",
        "_spares",
        "content",
        "expect",
        "max_body",
    )

    def __init__(self, max_body: int, spares: list[bytearray]) -> None:
        """
        :param spares: where a buffer for large bodies is kept, for whoever shares it.
        """
        self.max_body = max_body
        self.expect: Callable[[int, Any], None] = self._expect_method
        # The content that is being received: its method, who takes it, the largest
        # body that is kept, its header, the size of its body, what is missing of
        # that, whether it is kept, and what is there (one object, as a peer may send
        # many frames of an octet each; and it is used again, as fresh memory costs more
        # than to fill it).
        self.content: Any = None
        self._finish: Finish = _nothing
        self._keep = 0
        self._header = b""
        self._size = 0
        self._left = 0
        self._kept = False
        self._body = bytearray()
        self._spares = spares

    def receive_method(self, payload: bytes) -> None:
        """
        Take the payload of a method frame.
        """
        raise NotImplementedError

    def receive_message(self, message: tuple[bytes, bytes, bytes]) -> None:
        """
        Take the payloads of a method's, a header's and a body's frame, which came
        together.
        """
        method, header, body = message
        self.receive_method(method)
        self.expect(spec.FRAME_HEADER, header)
        self.expect(spec.FRAME_BODY, body)

    def begin(self, content: Any, finish: Finish, keep: int) -> None:
        """
        A method has come whose content is next.

        :param content: what ``finish`` is to be given, with header and body.
        :param keep: the largest body to keep, in octets.
        """
        self.content = content
        self._finish = finish
        self._keep = keep
        self.expect = self._expect_header

    def ignore_all(self) -> None:
        """
        Expect nothing more.
        """
        self.expect = _ignore
        self.content = None
        self._finish = _nothing
        self._body = bytearray()

    def _expect_method(self, kind: int, payload: Any) -> None:
        if kind == MESSAGE:
            self.receive_message(payload)
        elif kind == spec.FRAME_METHOD:
            self.receive_method(payload)
        else:
            raise UnexpectedFrame(f"a {frame_name(kind)} frame, where a method was due")

    def _expect_header(self, kind: int, payload: bytes) -> None:
        if kind != spec.FRAME_HEADER:
            raise UnexpectedFrame(
                f"a {frame_name(kind)} frame, where a content header was due"
            )
        try:
            class_id, weight, size, _ = _UNPACK_HEADER(payload)
        except StructError:
            raise DecodeError("a content header that is too short") from None
        if class_id != _CONTENT_CLASS or weight:
            raise FrameError(
                f"a content header of class {class_id} and weight {weight}"
            )
        if size >= self.impossible and size > self._keep:
            raise FrameError(f"a content header that announces {size} octets")
        self._header = payload
        self._size = self._left = size
        self._kept = size <= self._keep
        if size:
            self.expect = self._expect_body
        else:
            self._complete(b"")

    def _expect_body(self, kind: int, payload: bytes) -> None:
        if kind != spec.FRAME_BODY:
            raise UnexpectedFrame(
                f"a {frame_name(kind)} frame, where a content body was due"
            )
        start = self._size - self._left
        self._left = left = self._left - len(payload)
        if left > 0:
            if self._kept:
                if not start and self._spares:
                    self._body = self._spares.pop()
                self._body[start : start + len(payload)] = payload
        elif left < 0:
            raise FrameError(f"a body of {self._size - left} octets, not {self._size}")
        elif not self._kept:
            self._complete(None)
        elif start:
            self._body[start : self._size] = payload
            self._complete(self._whole_body())
        else:
            self._complete(payload)

    def _whole_body(self) -> bytes:
        """
        The body that was put together; the buffer is kept for the next one.
        """
        buffer, self._body = self._body, bytearray()
        body = bytes(memoryview(buffer)[: self._size])
        if len(buffer) <= _SPARE_SIZE:
            self._spares[:] = [buffer]
        return body

    def _complete(self, body: bytes | None) -> None:
        content, header = self.content, self._header
        self.content = None
        self._header = b""
        self.expect = self._expect_method
        self._finish(content, header, body)


def _ignore(kind: int, payload: bytes) -> None:
    """
    What an ended channel expects.
    """


def _nothing(content: Any, header: bytes, body: bytes | None) -> None:
    """
    What is done where nothing was begun.
    """
