# -*- test-case-name: txamqp091.test.faults.test_fuzz -*-
"""
What a broker may send, spoilt: a mutator, and a client that must stand it.  One in
five streams is a client's, for the server of `txamqp091.test.support.fuzz_server`.

The corpus, ``data/corpus``, is what a RabbitMQ said in the sessions below.  Each
stream is one of them with a few things changed, by frames (so that what is inside
them is reached) or by bytes.  Whatever comes of it is told by the machine as a
`RemoteProtocolError`, or is none; and everyone who waits is told one thing.

Every stream is fed whole, in random cuts and octet by octet.  That each costs little,
frames and messages are kept small: so are the limits that they come up to.

Run it with ``python -m txamqp091.test.support.fuzz COUNT [FIRST]``; ``--record HOST
PORT`` writes the corpus anew, from a broker that knows the user guest.  A stream
depends on its number alone.
"""

from __future__ import annotations

import base64
import gc
import os
import resource
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, NamedTuple

from txamqp091._machine.channel import ChannelMachine, Content
from txamqp091._machine.connection import ConnectionMachine, Limits
from txamqp091._machine.states import Role, State
from txamqp091.errors import (
    AMQPError,
    ConnectionLost,
    RemoteProtocolError,
    Returned,
    UndecodableProperty,
)
from txamqp091.test.support.checkout import DATA
from txamqp091.test.support.fuzz_server import (
    MAX_BODY,
    MAX_PAYLOAD,
    ServerSession,
    server_sessions,
)
from txamqp091.test.support.recording import octets, random_cuts, split_frames
from txamqp091.test.support.violations import VIOLATIONS, raw
from txamqp091.wire import spec
from txamqp091.wire.frames import Piece
from txamqp091.wire.method import METHODS
from txamqp091.wire.properties import PROPERTY_TYPES, Properties

__all__ = ["Failure", "Sink", "Session", "load", "mutate", "run", "run_in_processes"]

CORPUS = DATA / "corpus"

#: What one stream may cost: calls of functions and methods for each byte, and for
#: the stream as such; octets sent, for each received; and seconds of CPU time.
CALLS_PER_BYTE = 6
CALLS_PER_STREAM = 1000
SENT_PER_BYTE = 2
SENT_PER_STREAM = 1000
SECONDS_PER_STREAM = 0.05

#: Every which stream has its calls counted.
_COUNT_EVERY = 500

#: How much of it is said to a server.
_SERVER_SHARE = 0.2

#: How many streams there are to one seed.
_BLOCK = 1000

_CAPABILITIES = {
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}
_LIMITS = Limits(frame_max=4096, channel_max=8, heartbeat=0, max_body=MAX_BODY)


class Sink:
    """
    All sinks of a connection in one: notes what is called, and looks at what comes.

    :ivar events: what was called.
    :ivar waiting: how many handles were made and not told anything.
    """

    def __init__(self, session: Session, write: Callable[[Piece], None]) -> None:
        self.session = session
        self.events: list[tuple[Any, ...]] = []
        self.waiting = 0
        self.channels: list[ChannelMachine] = []
        self.machine = ConnectionMachine(Role.CLIENT, write, self, _LIMITS)

    def open(self) -> None:
        """
        Be where the recording begins: as `greet` and the handshake leave it, but
        sooner.
        """
        if self.session.opens:
            self.machine.state = State.OPEN
            self.machine._reader.max_payload = MAX_PAYLOAD
            self.session.prepare(self)
        else:
            self.machine.begin()

    def handle(self) -> Sink:
        """
        Somebody who waits: that is us.
        """
        self.waiting += 1
        return self

    def channel(self) -> ChannelMachine:
        """
        Ask for a channel.
        """
        return self.machine.open_channel(self._attach, self.handle())

    def _attach(self, channel: ChannelMachine) -> None:
        channel.sink = self
        self.channels.append(channel)

    # -- handles -------------------------------------------------------------------

    def callback(self, result: Any, /) -> None:
        self.waiting -= 1
        if type(result) is Content:
            self._look(result.header[12:])
        self.events.append(("callback", result))

    def errback(self, fail: Any, /) -> None:
        self.waiting -= 1
        self.events.append(("errback", type(fail), str(fail)))

    # -- the connection ------------------------------------------------------------

    def started(self, start: spec.ConnectionStart) -> None:
        self.events.append(("started", start))
        self.machine.start_ok(
            {"capabilities": _CAPABILITIES}, "PLAIN", b"\0guest\0guest", "en_US", "/"
        )

    def challenged(self, challenge: bytes) -> None:
        self.events.append(("challenged", challenge))
        self.machine.secure_ok(challenge)

    def opened(self) -> None:
        self.events.append(("opened",))

    def blocked_by(self, reason: str) -> None:
        self.events.append(("blocked_by", reason))

    def unblocked(self) -> None:
        self.events.append(("unblocked",))

    def closed(self, reason: AMQPError | None) -> None:
        self.events.append(("closed", type(reason), str(reason)))

    # -- the channel ---------------------------------------------------------------

    def confirmed(self) -> None:
        self.events.append(("confirmed",))

    def returned(
        self, method: spec.BasicReturn, header: bytes, body: bytes
    ) -> Returned:
        self._look(header[12:])
        self.events.append(("returned", method, header, body))
        return Returned(body, method.reply_code, method.reply_text)

    def flow(self, active: bool) -> None:
        self.events.append(("flow", active))

    # -- the consumer --------------------------------------------------------------

    def delivered(
        self,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        body: bytes,
    ) -> None:
        self._look(properties)
        self.events.append(("delivered", delivery_tag, redelivered, method, body))
        for channel in self.channels:
            if channel.consumers:
                channel.settle(spec.BasicAck, delivery_tag, 0)

    def oversized(
        self,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        size: int,
    ) -> None:
        self.events.append(("oversized", delivery_tag, size))

    def cancelled(self) -> None:
        self.events.append(("cancelled",))

    def ended(self, reason: AMQPError) -> None:
        self.events.append(("ended", type(reason), str(reason)))

    def _look(self, raw_properties: bytes) -> None:
        """
        Read every property: that may fail in one way only.
        """
        properties = Properties.from_wire(raw_properties)
        for name in PROPERTY_TYPES:
            try:
                value = getattr(properties, name)
            except UndecodableProperty as error:
                value = str(error)
            if value is not None:
                self.events.append((name, repr(value)))


# -- the sessions -----------------------------------------------------------------

_PROPERTIES = Properties(
    content_type="text/plain",
    headers={
        "text": "x",
        "number": 7,
        "float": 1.5,
        "bytes": b"\xff",
        "list": [1, None, {"deep": True}],
    },
    delivery_mode=2,
    priority=3,
    correlation_id="c",
    reply_to="r",
    expiration="60000",
    message_id="m",
    timestamp=1_700_000_000,
    type="t",
    app_id="a",
).encode()


def _nothing(sink: Sink) -> None:
    """
    Only shake hands.
    """


def _declare(channel: ChannelMachine, sink: Sink, queue: str = "fuzz") -> None:
    channel.call(spec.QueueDeclare(0, queue, exclusive=True), sink.handle())


def _declarations(sink: Sink) -> None:
    """
    Calls of many kinds.
    """
    channel = sink.channel()
    _declare(channel, sink)
    for method in (
        spec.ExchangeDeclare(0, "fuzz-x", "topic", auto_delete=True),
        spec.ExchangeDeclare(0, "fuzz-y", "topic", auto_delete=True),
        spec.ExchangeBind(0, "fuzz-x", "fuzz-y", "#"),
        spec.QueueBind(0, "fuzz", "fuzz-x", "#"),
        spec.BasicQos(0, 10),
        spec.BasicRecover(True),
        spec.QueuePurge(0, "fuzz"),
        spec.QueueUnbind(0, "fuzz", "fuzz-x", "#"),
        spec.ExchangeUnbind(0, "fuzz-x", "fuzz-y", "#"),
        spec.QueueDelete(0, "fuzz"),
        spec.ExchangeDelete(0, "fuzz-y"),
        spec.TxSelect(),
        spec.TxCommit(),
        spec.TxRollback(),
    ):
        channel.call(method, sink.handle())


def _publishes(sink: Sink) -> None:
    """
    Messages with confirms, some of which come back.
    """
    channel = sink.channel()
    channel.select_confirms(sink.handle())
    _declare(channel, sink)
    for place in range(4):
        body = b"%d" % place
        key = "fuzz" if place % 2 else "nowhere"
        channel.publish("", key, body, _PROPERTIES, place != 3, sink.handle())


def _deliveries(sink: Sink) -> None:
    """
    Messages that are delivered, of no body, one frame and three.
    """
    channel = sink.channel()
    _declare(channel, sink)
    for body in (b"", b"small", bytes(MAX_BODY)):
        channel.publish("", "fuzz", body, _PROPERTIES, False, sink)
    channel.register("tag", sink)
    channel.call(spec.BasicConsume(0, "fuzz", "tag"), sink.handle())


def _cancellation(sink: Sink) -> None:
    """
    A consumer that the broker cancels, as its queue goes.
    """
    one, two = sink.channel(), sink.channel()
    _declare(one, sink)
    one.register("tag", sink)
    one.call(spec.BasicConsume(0, "fuzz", "tag"), sink.handle())
    one.publish("", "fuzz", b"body", b"\0\0", False, sink)
    one.call(spec.QueueDelete(0, "fuzz"), sink.handle())
    two.close(200, "done", sink.handle())


def _gets(sink: Sink) -> None:
    """
    Messages that are asked for.
    """
    channel = sink.channel()
    _declare(channel, sink)
    for size in (3, MAX_BODY + 1):  # the second is over our limit
        channel.publish("", "fuzz", bytes(size), _PROPERTIES, False, sink)
    for _ in range(3):
        channel.call(spec.BasicGet(0, "fuzz"), sink.handle())


def _refusals(sink: Sink) -> None:
    """
    A channel that the broker closes, one that both close, and the connection.
    """
    channels = [sink.channel() for _ in range(3)]
    missing = spec.QueueDeclare(0, "fuzz-missing", True)
    channels[0].call(missing, sink.handle())
    channels[1].call(missing, sink.handle())
    channels[1].close(200, "done", sink.handle())
    sink.machine.update_secret(b"secret", "new", sink.handle())


class Session(NamedTuple):
    """
    Something that was recorded.

    :ivar prepare: says what the client said.
    :ivar opens: whether it begins when the connection is open.
    """

    name: str
    prepare: Callable[[Sink], None]
    opens: bool = True
    frames: tuple[tuple[int, int, bytes], ...] = ()

    @property
    def data(self) -> bytes:
        """
        What the broker said.
        """
        return b"".join(raw(*frame) for frame in self.frames)

    @property
    def greeting(self) -> bytes:
        """
        What comes before the first frame.
        """
        return b""

    def feed(self, pieces: list[bytes]) -> tuple[list[tuple[Any, ...]], int, int]:
        """
        Have a client take a stream, and then lose its transport.

        :returns: what was called, the code of the peer's error, or 0, and how many
            octets were sent.
        :raises AssertionError: when somebody was not told what became of it, or twice.
        """
        sent = 0

        def write(data: Piece) -> None:
            nonlocal sent
            sent += len(data)

        sink = Sink(self, write)
        sink.open()
        sent = code = 0
        try:
            for piece in pieces:
                sink.machine.receive(piece)
        except RemoteProtocolError as error:
            code = error.reply_code
            sink.events.append(("error", type(error), str(error)))
            sink.machine.violated(error)
        sink.machine.lost(ConnectionLost("the end"))
        assert not sink.waiting, f"{sink.waiting} more handles were made than told"
        return sink.events, code, sent


_SESSIONS = (
    Session("handshake", _nothing, opens=False),
    Session("declarations", _declarations),
    Session("publishes", _publishes),
    Session("deliveries", _deliveries),
    Session("cancellation", _cancellation),
    Session("gets", _gets),
    Session("refusals", _refusals),
)


def load() -> list[Session]:
    """
    The corpus.
    """
    return [
        session._replace(
            frames=tuple(
                piece
                for frame in split_frames((CORPUS / f"{session.name}.bin").read_bytes())
                for piece in _pieces(*frame)
            )
        )
        for session in _SESSIONS
    ]


def _pieces(
    kind: int, channel: int, payload: bytes
) -> Iterator[tuple[int, int, bytes]]:
    """
    A frame, or the smaller ones that a body would come in if no broker refused to
    agree on them.
    """
    size = MAX_PAYLOAD if kind == spec.FRAME_BODY else len(payload) or 1
    for start in range(0, len(payload), size):
        yield kind, channel, payload[start : start + size]


def record(host: str, port: int) -> None:
    """
    Have the sessions with a broker, and write down what it says.
    """
    for session in _SESSIONS:
        with socket.create_connection((host, port), 5) as connection:
            sink = Sink(session, connection.sendall)
            sink.machine.begin()
            said = b""
            while sink.machine.state is not State.OPEN:
                said += (data := connection.recv(65536))
                sink.machine.receive(data)
            if session.opens:
                said = b""
                session.prepare(sink)
                connection.settimeout(0.5)
                try:
                    while data := connection.recv(65536):
                        said += data
                        sink.machine.receive(data)
                except TimeoutError:
                    pass
        (CORPUS / f"{session.name}.bin").write_bytes(said)


# -- the mutator ------------------------------------------------------------------

_OCTETS = [
    b"\0",
    b"\1",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xce",
    b"A",
    b"F",
    b"S",
    b"T",
    b"x",
]
_NUMBERS = [
    bytes(2),
    b"\xff\xff",
    bytes(4),
    b"\0\0\0\1",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    bytes(8),
    b"\xff" * 8,
]
_METHODS = [kind().encode() for kind in METHODS.values()]
_WRONGS = [case.data for case in VIOLATIONS]
_CHANNELS = (0, 1, 1, 1, 2, 3, 8, 9, 65535)
_HEADERS = [
    b"\0\x3c\0\0" + size + b"\xff\xfc"
    for size in (
        bytes(8),
        bytes(7) + b"\5",
        b"\xff" * 8,
        (MAX_BODY + 1).to_bytes(8, "big"),
    )
]


def _spoil(data: bytes, random: Random) -> bytes:
    """
    Change one place in some bytes.
    """
    size = len(data)
    start = int(random.random() * (size + 1))
    choice = int(random.random() * 7)
    if choice == 0 and start < size:
        bit = 1 << int(random.random() * 8)
        return data[:start] + bytes([data[start] ^ bit]) + data[start + 1 :]
    if choice == 1:
        return data[:start] + random.choice(_OCTETS) + data[start + 1 :]
    if choice == 2:
        number = random.choice(_NUMBERS)
        return data[:start] + number + data[start + len(number) :]
    if choice == 3:
        return data[:start] + data[start + 1 + int(random.random() * 8) :]
    if choice == 4:
        end = start + 1 + int(random.random() * 16)
        return data[:end] + data[start:]
    if choice == 5:
        return data[:start]
    return data[:start] + random.choice(_OCTETS) * (1 + int(random.random() * 300))


def mutate(frames: list[tuple[int, int, bytes]], random: Random) -> bytes:
    """
    A stream with one to three things changed.

    :param frames: the stream; changed in place.
    """
    for _ in range(1 + int(random.random() * 3)):
        place = int(random.random() * len(frames))
        if random.random() < 0.3:  # what users see is there
            headers = [at for at, frame in enumerate(frames) if frame[0] == 2]
            place = random.choice(headers or [place])
        kind, channel, payload = frames[place]
        choice = int(random.random() * 10)
        if choice < 4:
            frames[place] = (kind, channel, _spoil(payload, random))
        elif choice == 4:
            frames.insert(place, frames[int(random.random() * len(frames))])
        elif choice == 5 and len(frames) > 1:
            del frames[place]
        elif choice == 6:
            frames[place] = (kind, random.choice(_CHANNELS), payload)
        elif choice == 7:
            method = random.choice(_METHODS)
            of_connection = method.startswith(b"\0\x0a")
            frames.insert(place, (1, 0 if of_connection else channel, method))
        elif choice == 8:
            frames.insert(place, (2, channel, random.choice(_HEADERS)))
        else:
            frames[place] = (int(random.random() * 5), channel, payload)
    data = b"".join([raw(*frame) for frame in frames])
    choice = int(random.random() * 8)
    if choice == 0:
        return _spoil(data, random)
    if choice == 1:
        start = int(random.random() * (len(data) + 1))
        return data[:start] + random.choice(_WRONGS) + data[start:]
    return data


# -- the test ---------------------------------------------------------------------


class Failure(Exception):
    """
    A stream that did what none may do.
    """


class Result(NamedTuple):
    """
    What came of a run.
    """

    streams: int
    refused: int
    grown: int
    slowest: float


AnySession = Session | ServerSession


def feed(session: AnySession, pieces: list[bytes]) -> tuple[list[tuple[Any, ...]], int]:
    """
    Have a peer take a stream, and then lose its transport.

    :returns: what was called, and the code of the other's error, or 0.
    :raises Failure: when somebody was not told what became of it, or twice; and for
        sending too much.
    """
    try:
        events, code, sent = session.feed(pieces)
    except AssertionError as error:
        raise Failure(str(error)) from None
    if sent > SENT_PER_STREAM + SENT_PER_BYTE * sum(map(len, pieces)):
        raise Failure(f"{sent} octets were sent")
    return events, code


def _count_calls(session: AnySession, data: bytes) -> int:
    """
    How many functions and methods are called for a stream.
    """
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1

    sys.setprofile(count)
    try:
        feed(session, [data])
    finally:
        sys.setprofile(None)
    return calls


def check(
    session: AnySession, data: bytes, number: int, random: Random
) -> tuple[int, float]:
    """
    Try one stream: whole, in random cuts, octet by octet, and now and then with its
    calls counted.

    :returns: the code of the peer's error, or 0; and the seconds that it took.
    """
    began = time.thread_time()
    outcome = feed(session, [data])
    seconds = time.thread_time() - began
    for _ in range(50):  # page faults count too: a busy machine is no slow stream
        if seconds > SECONDS_PER_STREAM:
            seconds = _seconds(session, data)
    if seconds > SECONDS_PER_STREAM:
        raise Failure(f"{seconds} s")
    if feed(session, random_cuts(data, random)) != outcome:
        raise Failure("other events in random cuts")
    if feed(session, octets(data)) != outcome:
        raise Failure("other events byte by byte")
    if number % _COUNT_EVERY == 0:
        calls = _count_calls(session, data)
        if calls > CALLS_PER_STREAM + CALLS_PER_BYTE * len(data):
            raise Failure(f"{calls} calls for {len(data)} bytes")
    return outcome[1], seconds


def _seconds(session: AnySession, data: bytes) -> float:
    began = time.thread_time()
    feed(session, [data])
    return time.thread_time() - began


def resident() -> int:
    """
    The most memory that this process has used, in bytes.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run(count: int, first: int = 0) -> Result:
    """
    Try streams, by their numbers.

    :raises Failure: naming the stream.
    """
    client, server = load(), server_sessions()
    random = Random()
    refused = 0
    slowest = 0.0
    baseline = 0
    for number in range(first, first + count):
        if number % _BLOCK == 0 or number == first:
            random.seed(number - number % _BLOCK)
        if number == first + min(2000, count // 2):
            gc.collect()
            baseline = resident()
        sessions: Sequence[AnySession] = client
        if random.random() < _SERVER_SHARE:
            sessions = server
        session = sessions[int(random.random() * len(sessions))]
        greeting = session.greeting
        if greeting and random.random() < 0.1:
            greeting = _spoil(greeting, random)
        data = greeting + mutate(list(session.frames), random)
        try:
            code, seconds = check(session, data, number, random)
        except Exception as error:
            raise Failure(
                f"stream {number} of the run from {first}: "
                f"{type(error).__name__}: {error}\n"
                f"session {session.name}, zlib.decompress(base64.b85decode("
                f"{base64.b85encode(zlib.compress(data))!r}))"
            ) from error
        refused += code != 0
        slowest = max(slowest, seconds)
    return Result(count, refused, resident() - baseline, slowest)


def run_in_processes(count: int, processes: int = 2) -> list[Result]:
    """
    Try streams in several processes at once.

    :raises Failure: with what the process said that failed.
    """
    each = -(-count // processes // _BLOCK) * _BLOCK
    running = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(each), str(place * each)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for place in range(processes)
    ]
    said = [process.communicate() for process in running]
    for process, (_, errors) in zip(running, said, strict=True):
        if process.returncode:
            raise Failure(errors)
    results = []
    for output, _ in said:
        streams, refused, grown, slowest = output.split()
        results.append(Result(int(streams), int(refused), int(grown), float(slowest)))
    return results


def main(arguments: list[str]) -> None:
    """
    What the command line asks for.
    """
    if arguments[:1] == ["--record"]:
        record(arguments[1], int(arguments[2]))
        return
    result = run(*map(int, arguments or ["100000"]))
    sys.stdout.write(" ".join(map(str, result)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
