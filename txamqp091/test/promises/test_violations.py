# -*- test-case-name: txamqp091.test.promises.test_violations -*-
"""
Peers that break the rules, by the machine and through the protocol; and peers that
bend them, which costs nothing.
"""

from __future__ import annotations

from struct import pack
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import RemoteProtocolError, UndecodableProperty
from txamqp091.message import Delivery
from txamqp091.test.support.peer import Peer
from txamqp091.test.support.recording import Recorder, content, octets
from txamqp091.test.support.violations import STAGES, VIOLATIONS, Violation, raw
from txamqp091.wire import spec

GREETED, AUTHENTICATING, OPENING, OPEN = STAGES
EVERY_CASE = [(stage, case) for case in VIOLATIONS for stage in case.stages]


def machine_at(stage: str) -> Recorder:
    """
    A connection that has come as far as a stage.
    """
    recorder = Recorder()
    if stage == GREETED:
        recorder.machine.begin()
    elif stage == OPEN:
        recorder.open()
        channel = recorder.open_channel()
        recorder.consume(channel)
        channel.call(spec.QueueDeclare(), recorder.handle("declare"))
    else:
        recorder.start()
        if stage == OPENING:
            recorder.say(0, spec.ConnectionTune(2047, 131072, 60))
    recorder.forget()
    return recorder


class MachineTests(SynchronousTestCase):
    """
    Tests for violations, as `ConnectionMachine` sees them.
    """

    def test_enough(self) -> None:
        """
        Criterion 2: there are more than 30 violations, each of a name of its own.
        """
        names = {case.name for case in VIOLATIONS}
        self.assertEqual(len(names), len(VIOLATIONS))
        self.assertGreaterEqual(len(names), 30)

    def check(self, stage: str, case: Violation, pieces: list[bytes]) -> None:
        """
        Have the peer break a rule, and look at what it is told.
        """
        where = f"{case.name}, while {stage}, in {len(pieces)} pieces"
        recorder = machine_at(stage)
        error = recorder.feed(pieces)
        self.assertIs(type(error), case.kind, where)
        assert error is not None
        self.assertEqual(error.reply_code, case.code, where)
        self.assertIn(case.text, error.reply_text, where)
        self.assertTrue(error.by_us)
        recorder.written.clear()
        recorder.machine.violated(error)
        sent = recorder.sent()
        if stage == GREETED and not _started(error):
            self.assertEqual(sent, [], where)
        else:
            ((channel, close),) = sent
            assert isinstance(close, spec.ConnectionClose), where
            self.assertEqual((channel, close.reply_code), (0, case.code), where)
            self.assertIn(case.text[:200], close.reply_text, where)
            self.assertEqual(close.class_id, error.class_id)
            self.assertEqual(close.method_id, error.method_id)
        recorder.machine.lost(error)
        told = recorder.take()
        if stage == OPEN:
            ends = {who for who, what, *_ in told if what in ("errback", "ended")}
            self.assertTrue(ends or (1, "closed") in {each[:2] for each in told}, told)

    def test_whole(self) -> None:
        """
        Criterion 2: each violation, in one piece, is the right error, which names
        the fault, and the peer gets connection.close with its code, wherever it may
        be sent.
        """
        for stage, case in EVERY_CASE:
            self.check(stage, case, [case.data])

    def test_byte_by_byte(self) -> None:
        """
        Criterion 2: the same byte by byte.
        """
        for stage, case in EVERY_CASE:
            self.check(stage, case, octets(case.data))

    def test_without_what_follows(self) -> None:
        """
        Criterion 2: none waits for what may come behind it, which is not read.
        """
        for stage, case in EVERY_CASE:
            self.check(stage, case, [case.data + b"\xce" * 5000])


def _started(error: RemoteProtocolError) -> bool:
    """
    Whether a fault lies in a start that could be read.
    """
    return error.reply_text.startswith("the peer speaks AMQP version")


class ProtocolTests(SynchronousTestCase):
    """
    Tests for violations, as they come through `AMQPProtocol.dataReceived`.
    """

    def at(self, stage: str) -> tuple[Peer, list[Deferred[Any]]]:
        """
        A peer that has come as far as a stage, and whatever waits for it.
        """
        peer = Peer(self)
        pending: list[Deferred[Any]] = [peer.client.when_closed()]
        if stage == GREETED:
            peer.listen()
        elif stage == OPEN:
            peer.handshake()
            channel = peer.open_channel()
            consuming = channel.basic_consume("q", lambda _: None, consumer_tag="tag")
            peer.serve()
            consumer = self.successResultOf(consuming)
            pending += [
                channel.queue_declare("q"),
                channel.when_closed(),
                consumer.when_ended(),
            ]
            peer.listen()
        else:
            peer.start()
            if stage == OPENING:
                peer.listen()
                peer.send(0, spec.ConnectionTune(2047, 131072, 60))
        if stage != OPEN:
            pending.append(peer.client.when_open())
        peer.listen()
        peer.said.clear()
        return peer, pending

    def check(self, stage: str, case: Violation, pieces: list[bytes]) -> None:
        """
        Have the peer break a rule, and look at what follows.
        """
        where = f"{case.name}, while {stage}"
        peer, (closed, *pending) = self.at(stage)
        for piece in pieces:
            peer.client.dataReceived(piece)  # raises nothing
        for place, deferred in enumerate(pending):
            # Those that ended with their channel, or were answered, before.
            results: list[object] = []
            deferred.addBoth(results.append)
            self.assertEqual(len(results), 1, f"{where}: {place} still waits")
        self.assertFalse(peer.client.is_open)
        self.assertEqual(peer.transport.ended, "lost", where)
        said = [each.method for each in peer.listen()]
        if stage != GREETED:
            assert isinstance(said[-1], spec.ConnectionClose), where
            self.assertEqual(said[-1].reply_code, case.code)
        peer.turn()
        error = self.failureResultOf(closed, case.kind).value
        self.assertEqual(error.reply_code, case.code, where)
        self.assertIn(case.text, str(error), where)
        self.flushLoggedErrors()

    def test_whole(self) -> None:
        """
        Criterion 2: each violation ends the connection: nothing escapes
        dataReceived, the peer is told where it can be, the transport goes, and all
        who wait are told, all at once.
        """
        for stage, case in EVERY_CASE:
            self.check(stage, case, [case.data])

    def test_byte_by_byte(self) -> None:
        """
        Criterion 2: the same byte by byte.
        """
        for stage, case in EVERY_CASE:
            self.check(stage, case, octets(case.data))


def _headers(table: bytes) -> bytes:
    return b"\x20\0" + pack(">I", len(table)) + table


#: Properties that are odd or wrong: what to read of them, and what comes; None for
#: `UndecodableProperty`.
POISON: list[tuple[str, bytes, str, object]] = [
    ("bad UTF-8 in content_type", b"\x80\0\2\xff\xfe", "content_type", "\udcff\udcfe"),
    ("a string past the end", b"\x80\0\xffabc", "content_type", None),
    ("flags without values", b"\xff\xfc", "message_id", None),
    ("flags that go on for ever", b"\xff\xff", "message_id", None),
    ("a timestamp in nanoseconds", b"\0\x40\x10" + bytes(7), "timestamp", 1 << 60),
    ("a timestamp of 2^64 - 1", b"\0\x40" + b"\xff" * 8, "timestamp", 2**64 - 1),
    ("a truncated timestamp", b"\0\x40\0", "timestamp", None),
    ("delivery mode 77", b"\x10\0\x4d", "delivery_mode", 77),
    ("priority 255", b"\x08\0\xff", "priority", 255),
    ("a table past the frame", b"\x20\0\xff\xff\xff\xff", "headers", None),
    ("an unknown type", _headers(b"\1a?"), "headers", None),
    ("a value past its table", _headers(b"\1aS\0\0\0\x09"), "headers", None),
    ("bad UTF-8 in a key", _headers(b"\1\xfft\1"), "headers", {"\udcff": True}),
    ("bad UTF-8 in a value", _headers(b"\1aS\0\0\0\1\xff"), "headers", {"a": b"\xff"}),
    ("a key twice", _headers(b"\1at\0\1at\1"), "headers", {"a": True}),
    ("bytes behind the properties", b"\0\0junk", "headers", "absent"),
]  # fmt: skip


class PoisonTests(SynchronousTestCase):
    """
    Tests for what a bad producer, not a bad broker, does.
    """

    def test_properties(self) -> None:
        """
        Criterion 6: whatever a message's properties are, it is delivered and can be
        acknowledged, as can the one behind it; what is wrong is an error of that
        property, when it is read.
        """
        nested = b""
        for _ in range(18_000):
            nested = b"\1aF" + pack(">I", len(nested)) + nested
        cases = [*POISON, ("nested 18,000 deep", _headers(nested), "headers", None)]
        peer = Peer(self)
        peer.handshake()
        channel = peer.open_channel()
        got: list[Delivery] = []
        consuming = channel.basic_consume("q", got.append, consumer_tag="tag")
        peer.serve()
        self.successResultOf(consuming)
        for tag, (name, properties, read, expected) in enumerate(cases, 1):
            method = spec.BasicDeliver("tag", 2 * tag - 1, False, "", "q")
            good = spec.BasicDeliver("tag", 2 * tag, False, "", "q")
            peer.feed(
                content(1, method, b"bad", properties) + content(1, good, b"good")
            )
            bad, good_one = got
            got.clear()
            self.assertEqual((bad.body, good_one.body), (b"bad", b"good"), name)
            if expected is None:
                with self.assertRaises(UndecodableProperty) as caught:
                    getattr(bad.properties, read)
                self.assertEqual(caught.exception.name, read, name)
                self.assertEqual(caught.exception.raw, properties, name)
            elif expected == "absent":
                self.assertIsNone(getattr(bad.properties, read), name)
            else:
                self.assertEqual(getattr(bad.properties, read), expected, name)
            bad.ack()
            good_one.ack()
            self.assertEqual(
                [each.method for each in peer.listen()],
                [spec.BasicAck(2 * tag - 1), spec.BasicAck(2 * tag)],
                name,
            )
            peer.said.clear()
        self.assertTrue(peer.client.is_open)

    def test_routing_keys(self) -> None:
        """
        Exchanges and routing keys that are not UTF-8 are read with escapes.
        """
        peer = Peer(self)
        peer.handshake()
        channel = peer.open_channel()
        got: list[Delivery] = []
        channel.basic_consume("q", got.append, consumer_tag="tag")
        peer.serve()
        method = spec.BasicDeliver("tag", 1, False, "\udcff", "key\udcfe")
        peer.feed(content(1, method, b"body"))
        self.assertEqual((got[0].exchange, got[0].routing_key), ("\udcff", "key\udcfe"))
        self.assertIn("key", repr(got[0]))
        self.assertTrue(peer.client.is_open)

    def test_close_texts(self) -> None:
        """
        The text of a close that is not UTF-8 is told with escapes, and fit for a
        log.
        """
        recorder = machine_at(OPEN)
        payload = spec.ConnectionClose.prefix + b"\1\x40\3\xff\n!\0\0\0\0"
        recorder.receive(raw(1, 0, payload))
        ((_, _, reason),) = [
            event for event in recorder.events if event[0] == "connection"
        ]
        self.assertEqual(reason.reply_text, "\udcff\n!")
        self.assertEqual(str(reason), "320 \\udcff\\n!")
        self.assertEqual(recorder.sent(), [(0, spec.ConnectionCloseOk())])
