# -*- test-case-name: txamqp091.test.promises.test_violations -*-
"""
What peers do wrong: a table of violations, and the stages of a connection at which
they happen.  The bytes are put together by hand, as no codec of ours would make them.
"""

from __future__ import annotations

from struct import pack
from typing import NamedTuple

from txamqp091.errors import (
    ChannelError,
    CommandInvalid,
    DecodeError,
    FrameError,
    MethodNotImplemented,
    ProtocolVersionMismatch,
    RemoteProtocolError,
    UnexpectedFrame,
)
from txamqp091.test.support.recording import content, frames
from txamqp091.wire import spec
from txamqp091.wire.method import Method

__all__ = ["STAGES", "VIOLATIONS", "Violation", "raw"]

GREETED, AUTHENTICATING, OPENING, OPEN = STAGES = (
    "greeted",  # the protocol header was sent
    "authenticating",  # start-ok was sent
    "opening",  # open was sent
    "open",  # channel 1 is open, with a consumer "tag"; a queue.declare waits
)
HANDSHAKE = (GREETED, AUTHENTICATING, OPENING)


class Violation(NamedTuple):
    """
    Something that a peer does wrong.

    :ivar stages: when.
    :ivar text: a part of what it is told.
    """

    name: str
    stages: tuple[str, ...]
    data: bytes
    kind: type[RemoteProtocolError]
    code: int
    text: str


def raw(kind: int, channel: int, payload: bytes, end: int = 206) -> bytes:
    """
    A frame of anything.
    """
    return pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def _cut(method: Method, octets: int = 1) -> bytes:
    """
    A method without its end.
    """
    return method.encode()[:-octets]


def _nested(depth: int) -> bytes:
    """
    A field table, in which is a table, and so on.
    """
    table = pack(">I", 0)
    for _ in range(depth):
        inside = b"\1aF" + table
        table = pack(">I", len(inside)) + inside
    return table


def _start(table: bytes, rest: bytes = b"\0\0\0\5PLAIN\0\0\0\5en_US") -> bytes:
    """
    A connection.start with some server properties.
    """
    return raw(1, 0, spec.ConnectionStart.prefix + b"\0\x09" + table + rest)


_DELIVER = spec.BasicDeliver("tag", 1, False, "", "key")
_HEADER = raw(2, 1, pack(">HHQH", 60, 0, 3, 0))
_DECLARE_OK = spec.QueueDeclareOk("q", 1, 2)
_TUNE = spec.ConnectionTune(0, 0, 0)
_KEY = b"\1a"

VIOLATIONS = [
    # Frames.
    Violation(
        "a frame over frame_max",
        HANDSHAKE[:2],
        pack(">BHI", 1, 0, 4089),
        FrameError,
        501,
        "a method frame of 4097 octets, over the 4096 that were agreed",
    ),
    Violation(
        "a frame over the frame_max that was agreed",
        (OPENING, OPEN),
        pack(">BHI", 1, 0, 131065),
        FrameError,
        501,
        "a method frame of 131073 octets, over the 131072 that were agreed",
    ),
    Violation(
        "a frame of 2 GiB",
        STAGES,
        pack(">BHI", 1, 0, 1 << 31),
        FrameError,
        501,
        "a method frame of 2147483656 octets",
    ),
    Violation(
        "a body of 4 GiB", (OPEN,), pack(">BHI", 3, 1, 0xFFFFFFFF), FrameError, 501,
        "a content body frame of 4294967303 octets",
    ),
    Violation(
        "frame type 0", STAGES, bytes(7), FrameError, 501, "unknown frame type 0"
    ),
    Violation(
        "frame type 4", STAGES, b"\4" + bytes(6), FrameError, 501,
        "unknown frame type 4",
    ),
    Violation(
        "garbage", STAGES, b"\xff\xfe" * 5, FrameError, 501, "unknown frame type 255"
    ),
    Violation(
        "a frame without frame-end", STAGES, raw(8, 0, b"", 0), FrameError, 501,
        "ends with the octet 0 instead of 206",
    ),
    Violation(
        "a method frame with a wrong end", (OPEN,),
        raw(1, 1, _DECLARE_OK.encode(), 205), FrameError, 501,
        "ends with the octet 205 instead of 206",
    ),
    Violation(
        "AMQP 1.0", STAGES, b"AMQP\0\1\0\0", ProtocolVersionMismatch, 501,
        "the peer asks for AMQP version 1.0.0",
    ),
    Violation(
        "TLS", STAGES, b"\x15\3\1\0\2\2\x46", FrameError, 501,
        "the peer answers in TLS",
    ),
    Violation(
        "HTTP", STAGES, b"HTTP/1.1 400 Bad Request\r\n", FrameError, 501,
        "the peer answers in HTTP",
    ),
    Violation(
        "SSH", STAGES, b"SSH-2.0-OpenSSH_9.2\r\n", FrameError, 501,
        "the peer answers in SSH",
    ),
    Violation(
        "a heartbeat on a channel", STAGES, raw(8, 1, b""), CommandInvalid, 503,
        "a heartbeat on channel 1",
    ),
    Violation(
        "a heartbeat with a payload", STAGES, raw(8, 0, b"x"), FrameError, 501,
        "a heartbeat with a payload of 1 octets",
    ),
    # Channels.
    Violation(
        "a method on a channel that was never opened", STAGES,
        frames(7, spec.ChannelOpenOk()), ChannelError, 504,
        "a method frame for channel 7, which is not open",
    ),
    Violation(
        "content on a channel that was never opened", STAGES, raw(3, 7, b"body"),
        ChannelError, 504, "a content body frame for channel 7, which is not open",
    ),
    Violation(
        "a frame on a channel that was closed", (OPEN,),
        frames(1, spec.ChannelClose(404, "gone"), _DECLARE_OK), ChannelError, 504,
        "a method frame for channel 1, which is not open",
    ),
    Violation(
        "channel.open-ok twice", (OPEN,), frames(1, spec.ChannelOpenOk()),
        CommandInvalid, 503, "channel.open-ok",
    ),
    Violation(
        "channel.close-ok unasked", (OPEN,), frames(1, spec.ChannelCloseOk()),
        CommandInvalid, 503, "channel.close-ok",
    ),
    Violation(
        "a channel's method on channel 0", STAGES, frames(0, _DECLARE_OK),
        CommandInvalid, 503, "queue.declare-ok, while the connection is",
    ),
    Violation(
        "a method of the connection on a channel", (OPEN,),
        frames(1, spec.ConnectionBlocked("low")), CommandInvalid, 503,
        "connection.blocked instead of",
    ),
    # Content.
    Violation(
        "a body first", (OPEN,), raw(3, 1, b"body"), UnexpectedFrame, 505,
        "a content body frame, where a method was due",
    ),
    Violation(
        "a header first", (OPEN,), _HEADER, UnexpectedFrame, 505,
        "a content header frame, where a method was due",
    ),
    Violation(
        "a header on channel 0", STAGES, raw(2, 0, pack(">HHQH", 60, 0, 3, 0)),
        UnexpectedFrame, 505, "a content header frame on channel 0",
    ),
    Violation(
        "a body on channel 0", STAGES, raw(3, 0, b"body"), UnexpectedFrame, 505,
        "a content body frame on channel 0",
    ),
    Violation(
        "deliver twice", (OPEN,), frames(1, _DELIVER, _DELIVER), UnexpectedFrame, 505,
        "a method frame, where a content header was due",
    ),
    Violation(
        "a method inside content", (OPEN,),
        frames(1, _DELIVER) + _HEADER + frames(1, _DECLARE_OK), UnexpectedFrame, 505,
        "a method frame, where a content body was due",
    ),
    Violation(
        "a method inside a body", (OPEN,),
        frames(1, _DELIVER) + _HEADER + raw(3, 1, b"a") + frames(1, _DECLARE_OK),
        UnexpectedFrame, 505, "a method frame, where a content body was due",
    ),
    Violation(
        "a body without its header", (OPEN,), frames(1, _DELIVER) + raw(3, 1, b"abc"),
        UnexpectedFrame, 505, "a content body frame, where a content header was due",
    ),
    Violation(
        "two headers", (OPEN,), frames(1, _DELIVER) + _HEADER + _HEADER,
        UnexpectedFrame, 505, "a content header frame, where a content body was due",
    ),
    Violation(
        "more body than announced", (OPEN,),
        frames(1, _DELIVER) + _HEADER + raw(3, 1, b"four"), FrameError, 501,
        "a body of 4 octets, not 3",
    ),
    Violation(
        "another body behind a whole one", (OPEN,),
        content(1, _DELIVER, b"abc") + raw(3, 1, b"d"), UnexpectedFrame, 505,
        "a content body frame, where a method was due",
    ),
    Violation(
        "a header of another class", (OPEN,),
        frames(1, _DELIVER) + raw(2, 1, pack(">HHQH", 50, 0, 3, 0)), FrameError, 501,
        "a content header of class 50",
    ),
    Violation(
        "a header with a weight", (OPEN,),
        frames(1, _DELIVER) + raw(2, 1, pack(">HHQH", 60, 1, 3, 0)), FrameError, 501,
        "and weight 1",
    ),
    Violation(
        "a truncated header", (OPEN,),
        frames(1, _DELIVER) + raw(2, 1, pack(">HHQ", 60, 0, 3)), DecodeError, 502,
        "a content header that is too short",
    ),
    # Methods that cannot be read.
    Violation(
        "an unknown class", STAGES, raw(1, 0, pack(">HH", 77, 10)),
        MethodNotImplemented, 540, "no method 10 of class 77",
    ),
    Violation(
        "an unknown method of the connection", STAGES, raw(1, 0, pack(">HH", 10, 99)),
        MethodNotImplemented, 540, "no method 99 of class 10",
    ),
    Violation(
        "an unknown method on a channel", (OPEN,), raw(1, 1, pack(">HH", 50, 99)),
        MethodNotImplemented, 540, "no method 99 of class 50",
    ),
    Violation(
        "an empty method frame", STAGES, raw(1, 0, b""), DecodeError, 502,
        "without the numbers of a method",
    ),
    Violation(
        "half of a method's number", (OPEN,), raw(1, 1, b"\0\x32\0"), DecodeError, 502,
        "without the numbers of a method",
    ),
    Violation(
        "a truncated method", (OPEN,), raw(1, 1, _cut(_DECLARE_OK)), DecodeError, 502,
        "queue.declare-ok.consumer_count",
    ),
    Violation(
        "a method with more behind it", (OPEN,),
        raw(1, 1, _DECLARE_OK.encode() + b"\0"), DecodeError, 502,
        "queue.declare-ok: 1 bytes after its arguments",
    ),
    Violation(
        "a short string past the frame", (OPEN,),
        raw(1, 1, spec.QueueDeclareOk.prefix + b"\xffqueue"), DecodeError, 502,
        "queue.declare-ok.queue",
    ),
    Violation(
        "a truncated tune", (AUTHENTICATING,), raw(1, 0, _cut(_TUNE)), DecodeError,
        502, "connection.tune.heartbeat",
    ),
    Violation(
        "a truncated close", STAGES,
        raw(1, 0, _cut(spec.ConnectionClose(320, "bye"))), DecodeError, 502,
        "connection.close.method_id",
    ),
    Violation(
        "a long string past the frame", (AUTHENTICATING,),
        raw(1, 0, spec.ConnectionSecure.prefix + b"\xff\xff\xff\xffchallenge"),
        DecodeError, 502, "connection.secure.challenge",
    ),
    Violation(
        "a truncated start", (GREETED,), raw(1, 0, _cut(spec.ConnectionStart(), 3)),
        DecodeError, 502, "connection.start.locales",
    ),
    Violation(
        "a table past the frame", (GREETED,), _start(b"\0\1\0\0"), DecodeError, 502,
        "connection.start.server_properties: 65536 bytes are announced",
    ),
    Violation(
        "a table of 4 GiB", (GREETED,), _start(b"\xff\xff\xff\xff"), DecodeError, 502,
        "connection.start.server_properties",
    ),
    Violation(
        "a table nested too deep", (GREETED,), _start(_nested(500)), DecodeError, 502,
        "nested too deep",
    ),
    Violation(
        "an unknown type in a table", (GREETED,), _start(b"\0\0\0\3" + _KEY + b"?"),
        DecodeError, 502, "connection.start.server_properties['a']: unknown type b'?'",
    ),
    Violation(
        "a value that is not in its table", (GREETED,),
        _start(b"\0\0\0\7" + _KEY + b"S\0\0\0\x09"), DecodeError, 502,
        "runs past the end of its table",
    ),
    Violation(
        "a truncated delivery", (OPEN,), raw(1, 1, _cut(_DELIVER)), DecodeError, 502,
        "basic.deliver: its fields do not fill its frame",
    ),
    Violation(
        "a truncated ack", (OPEN,), raw(1, 1, _cut(spec.BasicAck(1))), DecodeError,
        502, "basic.ack: its fields do not fill its frame",
    ),
    Violation(
        "a truncated return", (OPEN,),
        raw(1, 1, _cut(spec.BasicReturn(312, "", "", "key"))), DecodeError, 502,
        "basic.return.routing_key",
    ),
    # Methods that may not be said.
    Violation(
        "close before start", (GREETED,), frames(0, spec.ConnectionClose(320, "no")),
        CommandInvalid, 503, "connection.close, while the connection is greeted",
    ),
    Violation(
        "tune before start", (GREETED,), frames(0, _TUNE), CommandInvalid, 503,
        "connection.tune, while the connection is greeted",
    ),
    Violation(
        "start again", (AUTHENTICATING, OPENING, OPEN),
        frames(0, spec.ConnectionStart()), CommandInvalid, 503,
        "connection.start, while the connection is",
    ),
    Violation(
        "tune again", (OPENING, OPEN), frames(0, _TUNE), CommandInvalid, 503,
        "connection.tune, while the connection is",
    ),
    Violation(
        "open-ok before tune", (GREETED, AUTHENTICATING),
        frames(0, spec.ConnectionOpenOk()), CommandInvalid, 503,
        "connection.open-ok, while the connection is",
    ),
    Violation(
        "open-ok again", (OPEN,), frames(0, spec.ConnectionOpenOk()), CommandInvalid,
        503, "connection.open-ok, while the connection is open",
    ),
    Violation(
        "secure when nothing is to be proved", (OPENING, OPEN),
        frames(0, spec.ConnectionSecure(b"?")), CommandInvalid, 503,
        "connection.secure, while the connection is",
    ),
    Violation(
        "blocked before open", HANDSHAKE, frames(0, spec.ConnectionBlocked("low")),
        CommandInvalid, 503, "connection.blocked, while the connection is",
    ),
    Violation(
        "close-ok unasked", STAGES, frames(0, spec.ConnectionCloseOk()),
        CommandInvalid, 503, "connection.close-ok, while the connection is",
    ),
    Violation(
        "update-secret-ok unasked", (OPEN,),
        frames(0, spec.ConnectionUpdateSecretOk()), CommandInvalid, 503,
        "connection.update-secret-ok, for which nobody asked",
    ),
    Violation(
        "a tiny frame_max", (AUTHENTICATING,),
        frames(0, spec.ConnectionTune(0, 4095, 0)), DecodeError, 502,
        "connection.tune: a frame_max of 4095, below 4096",
    ),
    Violation(
        "a start of AMQP 0-8", (GREETED,), frames(0, spec.ConnectionStart(8, 0)),
        ProtocolVersionMismatch, 501, "the peer speaks AMQP version 8.0, not 0.9",
    ),
    Violation(
        "an answer to another question", (OPEN,), frames(1, spec.QueueBindOk()),
        CommandInvalid, 503, "queue.bind-ok instead of queue.declare-ok",
    ),
    Violation(
        "an answer that nobody asked for", (OPEN,), frames(1, _DECLARE_OK, _DECLARE_OK),
        CommandInvalid, 503, "queue.declare-ok, for which nobody asked",
    ),
    Violation(
        "a message that nobody asked for", (OPEN,), frames(1, spec.BasicGetOk(1)),
        CommandInvalid, 503, "basic.get-ok instead of",
    ),
    Violation(
        "a question that clients ask", (OPEN,), frames(1, spec.QueueDeclare()),
        CommandInvalid, 503, "queue.declare instead of",
    ),
    Violation(
        "a confirm without confirm mode", (OPEN,), frames(1, spec.BasicAck(1)),
        CommandInvalid, 503, "not in confirm mode",
    ),
    Violation(
        "a delivery for a consumer that there is not", (OPEN,),
        frames(1, spec.BasicDeliver("nobody", 1)), CommandInvalid, 503,
        "a delivery for the consumer 'nobody', which does not exist",
    ),
]  # fmt: skip
