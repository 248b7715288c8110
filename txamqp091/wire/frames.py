# -*- test-case-name: txamqp091.test.unit.wire.test_frames -*-
"""
Bytes to frames and back.

`FrameReader` cuts a stream into frames and judges each by its first seven
octets, before it waits for the rest.  The functions below it build frames.  What
a frame means is not known here.

A frame, AMQP 0-9-1 §4.2.3: type (1 octet), channel (2), size (4), payload (size),
and the octet 206.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Any, Generic, TypeVar

from txamqp091.errors import (
    ChannelError,
    CommandInvalid,
    FrameError,
    ProtocolVersionMismatch,
)
from txamqp091.wire.method import METHODS
from txamqp091.wire.spec import (
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_MIN_SIZE,
)
from txamqp091.wire.templates import Template

__all__ = [
    "FRAME_OVERHEAD",
    "HEARTBEAT",
    "MESSAGE",
    "FrameReader",
    "Piece",
    "content_frames",
    "content_heads",
    "frame_name",
    "method_frame",
]

Route = TypeVar("Route")

#: Bytes to be written, or a part of some, not copied.
Piece = bytes | bytearray | memoryview

#: The octets of a frame that are not payload.
FRAME_OVERHEAD = 8

_HEAD = Struct(">BHI")
# The head of a header frame, and the class, the weight and the body's size in it.
_HEADER = Struct(">BHIHHQ")
# The end of a frame, and the head of the body frame behind it.
_BODY = Struct(">BBHI")
_PACK_HEADER, _PACK_BODY = _HEADER.pack, _BODY.pack
_HEAD_SIZE = _HEAD.size

#: The octets of a large body frame that are given out at once, at the least.
_PART = 16384

_END = bytes([FRAME_END])
_BASIC = 60
# Where in a frame of ``basic.deliver`` the length of the consumer tag is: behind the
# head, class and method.
_TAG_LENGTH = _HEAD_SIZE + 4

#: What `FrameReader` gives out in place of a frame type, for the method, the header and
#: the body of a message at once.
MESSAGE = 0

_WITH_CONTENT = frozenset(
    prefix for prefix, method in METHODS.items() if method.content
)
# In a header frame's payload: class, weight, size, flags.
_HEADER_FIELDS = 14
# The octets of a header frame without properties, and of a body frame of one octet.
_SMALLEST_CONTENT = 2 * FRAME_OVERHEAD + _HEADER_FIELDS

#: A heartbeat frame, AMQP 0-9-1 §4.2.7.
HEARTBEAT = _HEAD.pack(FRAME_HEARTBEAT, 0, 0) + _END

_NAMES = {
    MESSAGE: "method",
    FRAME_METHOD: "method",
    FRAME_HEADER: "content header",
    FRAME_BODY: "content body",
    FRAME_HEARTBEAT: "heartbeat",
}


def frame_name(kind: int) -> str:
    """
    What a frame type is called.
    """
    return _NAMES.get(kind, f"type {kind}")


class FrameReader(Generic[Route]):
    """
    Cuts a stream of bytes into frames, however the stream was split.

    An incomplete frame waits as a list of pieces, joined once it is complete, so
    the cost of a byte does not depend on the size of the pieces.  A large body frame
    does not wait: it is given out in parts, as if it were several frames, which saves
    to copy it twice.

    :ivar routes: who takes the frames of each open channel.  A frame for any
        other channel is an error.
    :ivar max_payload: the largest payload that is accepted.
    :ivar paused: while true, no more frames are given out; feed ``b""`` to go on
        after that.
    :ivar templates: what reads messages that are like one before, and gives them out
        itself; by `template_name`.
    """

    def __init__(self, routes: Mapping[int, Route]) -> None:
        self.routes = routes
        self.max_payload = FRAME_MIN_SIZE - FRAME_OVERHEAD
        self.paused = False
        self.templates: dict[bytes, Template] = {}
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 0
        # The body frame that is being given out in parts: who takes it, and how many of
        # its octets are still to come.
        self._taker: Route | None = None
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[Route, int, Any]]:
        """
        Take bytes, and give out the frames that are complete now, each as its
        route, its type and its payload.  Heartbeats are swallowed.  A message that
        came in one piece is given out so, as `MESSAGE` and its three payloads.

        :raises RemoteProtocolError: for bytes that cannot be a frame.  The reader
            is of no use after that.
        """
        pieces = self._pieces
        if pieces:
            pieces.append(data)
            self._have += len(data)
            if self._have < self._need or self.paused:
                return
            data = b"".join(pieces)
            pieces.clear()
        unpack, unpack_header = _HEAD.unpack_from, _HEADER.unpack_from
        unpack_body, templates = _BODY.unpack_from, self.templates
        position, size = 0, len(data)
        need = min(self._left + 1, _PART) if self._left else _HEAD_SIZE
        while size - position >= need and not self.paused:
            if self._left:
                part, position = self._part(data, position)
                need = min(self._left + 1, _PART) if self._left else _HEAD_SIZE
                assert self._taker is not None
                yield self._taker, FRAME_BODY, part
                continue
            kind, channel, length = unpack(data, position)
            start = position + _HEAD_SIZE
            end = start + length
            route = self.routes.get(channel)
            if route is None or length > self.max_payload or not 0 < kind < 4:
                head = data[position : position + 8]
                if len(head) < 8 and head.startswith(b"AMQP"):
                    need = 8  # its last octet belongs to the version
                    break
                self._judge(kind, channel, length, head)
            if end >= size:
                if kind == FRAME_BODY and length > _PART:
                    self._taker, self._left = route, length
                    position, need = start, _PART
                    continue
                need = length + FRAME_OVERHEAD
                break
            if data[end] != FRAME_END:
                raise _bad_end(data[end])
            if templates and kind == FRAME_METHOD and end + 8 < size:
                tag = position + _TAG_LENGTH
                template = templates.get(
                    data[position : tag + 1 + data[tag]] + data[end + 4 : end + 8]
                )
                if template is not None and template.channel.content is None:
                    after = template.read(data, position, self)
                    if after != position:
                        position = after
                        continue
            position = end + 1
            if kind == FRAME_HEARTBEAT:
                continue
            assert route is not None  # or `_judge` would have raised
            payload = data[start:end]
            if (
                kind == FRAME_METHOD
                and size - position > _SMALLEST_CONTENT
                and data[position] == FRAME_HEADER
                and channel
                and payload[:4] in _WITH_CONTENT
            ):
                # Two thirds of the cost of a small message are saved by looking at
                # its three frames together; whatever is odd goes the usual way.
                header = position + _HEAD_SIZE
                _, channel_2, length, class_id, weight, whole = unpack_header(
                    data, position
                )
                seam = header + length
                if (
                    channel_2 == channel
                    and class_id == _BASIC
                    and not weight
                    and _HEADER_FIELDS <= length <= self.max_payload
                    and 0 < whole <= self.max_payload
                    and seam + 8 + whole < size
                    and unpack_body(data, seam)
                    == (FRAME_END, FRAME_BODY, channel, whole)
                    and data[seam + 8 + whole] == FRAME_END
                ):
                    body = seam + 8
                    position = body + whole + 1
                    yield (
                        route,
                        MESSAGE,
                        (payload, data[header:seam], data[body : position - 1]),
                    )
                    continue
            yield route, kind, payload
        if position < size:
            pieces.append(data[position:] if position else data)
            self._have = size - position
            self._need = need

    def _part(self, data: bytes, position: int) -> tuple[bytes, int]:
        """
        The next part of a large body frame, and the position after it.
        """
        start, end = position, position + self._left
        if end < len(data):
            if data[end] != FRAME_END:
                raise _bad_end(data[end])
            self._left = 0
            return data[start:end], end + 1
        # The last octet waits for the one that shows it to be the last.
        end = min(end - 1, len(data))
        self._left -= end - start
        return data[start:end], end

    def _judge(self, kind: int, channel: int, length: int, head: bytes) -> None:
        """
        Raise what is wrong with a frame, going by its first octets alone.
        """
        if kind == FRAME_HEARTBEAT:
            if channel:
                raise CommandInvalid(f"a heartbeat on channel {channel}")
            if length:
                raise FrameError(f"a heartbeat with a payload of {length} octets")
        elif head.startswith(b"AMQP"):
            version = ".".join(map(str, head[5:8]))
            raise ProtocolVersionMismatch(
                f"the peer asks for AMQP version {version}; this is 0.9.1"
            )
        elif kind == MESSAGE or kind not in _NAMES:
            hint = _FIRST_OCTETS.get(kind, "is it an AMQP broker?")
            raise FrameError(f"unknown frame type {kind} ({hint})")
        elif length > self.max_payload:
            raise FrameError(
                f"a {frame_name(kind)} frame of {length + FRAME_OVERHEAD} octets, "
                f"over the {self.max_payload + FRAME_OVERHEAD} that were agreed"
            )
        else:
            raise ChannelError(
                f"a {frame_name(kind)} frame for channel {channel}, which is not open"
            )


def _bad_end(octet: int) -> FrameError:
    return FrameError(f"a frame ends with the octet {octet} instead of {FRAME_END}")


#: What sort of server begins its answer with an octet that no frame begins with.
_FIRST_OCTETS = {
    0x15: "the peer answers in TLS: use amqps://",
    0x16: "the peer answers in TLS: use amqps://",
    ord("H"): "the peer answers in HTTP",
    ord("S"): "the peer answers in SSH, or another text protocol",
}


def method_frame(channel: int, payload: bytes) -> bytes:
    """
    A method frame.  It cannot be split: a method must fit into one.
    """
    return _HEAD.pack(FRAME_METHOD, channel, len(payload)) + payload + _END


def content_frames(
    channel: int, method: bytes, properties: bytes, body: bytes, max_payload: int
) -> Sequence[Piece]:
    """
    The frames of a method with content, in pieces fit for writing: one, unless the
    body needs several frames.  Then it is not copied: some pieces are parts of it.

    :param method: the whole frame of the method.
    :param properties: flags and values, as `Properties.encode` gives them.
    """
    size = len(body)
    if 0 < size <= max_payload:
        header, seam = content_heads(channel, len(properties), size)
        return [b"".join((method, header, properties, seam, body, _END))]
    header = _HEADER.pack(FRAME_HEADER, channel, 12 + len(properties), _BASIC, 0, size)
    pieces: list[Piece] = [b"".join((method, header, properties))]
    view = memoryview(body)
    for start in range(0, size, max_payload):
        piece = view[start : start + max_payload]
        # The end of the frame before it, and its own head.
        pieces.append(_BODY.pack(FRAME_END, FRAME_BODY, channel, len(piece)))
        pieces.append(piece)
    pieces.append(_END)
    return pieces if size else [b"".join(pieces)]


def content_heads(channel: int, properties: int, size: int) -> tuple[bytes, bytes]:
    """
    For a content whose body is not empty and needs one frame: the octets before its
    properties, and those between its properties and its body.

    :param properties: the size of the encoded properties.
    :param size: the size of the body.
    """
    return (
        _PACK_HEADER(FRAME_HEADER, channel, 12 + properties, _BASIC, 0, size),
        _PACK_BODY(FRAME_END, FRAME_BODY, channel, size),
    )
