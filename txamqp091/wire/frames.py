# -*- test-case-name: txamqp091.test.test_frames -*-
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

__all__ = [
    "FRAME_OVERHEAD",
    "HEARTBEAT",
    "MESSAGE",
    "FrameReader",
    "content_frames",
    "frame_name",
    "method_frame",
]

Route = TypeVar("Route")

#: The octets of a frame that are not payload.
FRAME_OVERHEAD = 8

_HEAD = Struct(">BHI")
# The head of a header frame, and the class, the weight and the body's size in it.
_HEADER = Struct(">BHIHHQ")
# The end of a header frame, and the head of a body frame.
_BODY = Struct(">BBHI")
_HEAD_SIZE = _HEAD.size
_END = bytes([FRAME_END])
_BASIC = 60

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
    the cost of a byte does not depend on the size of the pieces.

    :ivar routes: who takes the frames of each open channel.  A frame for any
        other channel is an error.
    :ivar max_payload: the largest payload that is accepted.
    :ivar paused: while true, no more frames are given out; feed ``b""`` to go on
        after that.
    """

    def __init__(self, routes: Mapping[int, Route]) -> None:
        self.routes = routes
        self.max_payload = FRAME_MIN_SIZE - FRAME_OVERHEAD
        self.paused = False
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 0

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
        unpack_body = _BODY.unpack_from
        position, size, need = 0, len(data), _HEAD_SIZE
        while size - position >= _HEAD_SIZE and not self.paused:
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
                need = length + FRAME_OVERHEAD
                break
            if data[end] != FRAME_END:
                raise FrameError(
                    f"a frame ends with the octet {data[end]} instead of {FRAME_END}"
                )
            position = end + 1
            if kind == FRAME_HEARTBEAT:
                continue
            assert route is not None  # or `_judge` would have raised
            payload = data[start:end]
            if (
                kind == FRAME_METHOD
                and channel
                and payload[:4] in _WITH_CONTENT
                and size - position > _SMALLEST_CONTENT
            ):
                # Two thirds of the cost of a small message are saved by looking at
                # its three frames together; whatever is odd goes the usual way.
                header = position + _HEAD_SIZE
                kind_2, channel_2, length, class_id, weight, whole = unpack_header(
                    data, position
                )
                seam = header + length
                if (
                    kind_2 == FRAME_HEADER
                    and channel_2 == channel
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
) -> Sequence[bytes]:
    """
    The frames of a method with content, in pieces fit for writing: the first has
    the method, the header and as much of the body as one frame holds.

    :param method: the whole frame of the method.
    :param properties: flags and values, as `Properties.encode` gives them.
    """
    size = len(body)
    header = _HEADER.pack(FRAME_HEADER, channel, 12 + len(properties), _BASIC, 0, size)
    if not size:
        return (b"".join((method, header, properties, _END)),)
    first = min(size, max_payload)
    # The end of the header's frame, and the head of the body's.
    seam = _BODY.pack(FRAME_END, FRAME_BODY, channel, first)
    if first == size:
        return (b"".join((method, header, properties, seam, body, _END)),)
    view = memoryview(body)
    pieces = [b"".join((method, header, properties, seam, view[:first], _END))]
    for start in range(first, size, max_payload):
        piece = view[start : start + max_payload]
        head = _HEAD.pack(FRAME_BODY, channel, len(piece))
        pieces.append(b"".join((head, piece, _END)))
    return pieces
