# -*- test-case-name: txamqp091.test.unit.machine.test_server -*-
"""
Tests for `txamqp091._machine.server`: what a server says to a client that keeps to the
rules, which is the one of `txamqp091._machine.connection`, joined to it in memory; and
what it says to others.
"""

from __future__ import annotations

from functools import partial
from struct import pack
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine.connection import Limits
from txamqp091._machine.content import Assembler
from txamqp091._machine.states import State
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
)
from txamqp091.test.support.recording import content, frames, octets
from txamqp091.test.support.serving import Pair, ServerRecorder
from txamqp091.test.support.violations import raw
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT
from txamqp091.wire.method import Method

HEADER = spec.PROTOCOL_HEADER
START_OK = frames(0, spec.ConnectionStartOk())
TUNE_OK = frames(0, spec.ConnectionTuneOk(2047, 131072, 60))
PUBLISH = spec.BasicPublish(0, "x", "key")


class HandshakeTests(SynchronousTestCase):
    """
    Tests for both ends getting to know each other.
    """

    def test_steps(self) -> None:
        """
        Each step is told to the server, however the bytes are cut.
        """
        for piece in (0, 1, 7):
            pair = Pair(Limits(heartbeat=30), Limits(channel_max=100), piece).open()
            agreed = Limits(131072, 100, 30)
            start_ok = spec.ConnectionStartOk(
                {"b": 2}, "PLAIN", b"\0guest\0guest", "en_US"
            )
            self.assertEqual(
                pair.server.take(),
                [
                    ("connection", "greeted"),
                    ("connection", "authenticating", start_ok),
                    ("connection", "tuned", agreed),
                    ("connection", "opening", "vhost"),
                ],
            )
            self.assertEqual(pair.client.kinds()[-1], ("connection", "opened"))
            self.assertEqual(pair.server.machine.state, State.OPEN)
            self.assertEqual(pair.client.machine.limits, agreed)

    def test_start(self) -> None:
        """
        The server introduces itself, with what it is told to say.
        """
        server = ServerRecorder()
        server.receive(*octets(HEADER))
        start = spec.ConnectionStart(0, 9, {"a": 1}, b"PLAIN AMQPLAIN", b"en_US")
        self.assertEqual(server.sent(), [(0, start)])

    def test_challenge(self) -> None:
        """
        A mechanism may take several steps.
        """
        pair = Pair()
        server, client = pair.server, pair.client
        server.answers["authenticating"] = lambda: server.machine.challenge(b"?")
        client.hooks["connection", "challenged"] = lambda: client.machine.secure_ok(
            b"!"
        )
        pair.open()
        self.assertIn(("connection", "challenged", b"?"), client.take())
        self.assertIn(("connection", "responded", b"!"), server.take())
        self.assertEqual(server.machine.state, State.OPEN)

    def test_refused(self) -> None:
        """
        The server may close instead of each answer, and the client agrees.
        """
        for step in ("authenticating", "opening"):
            pair = Pair()
            reason = ConnectionClosed("no", reply_code=403)
            machine = pair.server.machine
            pair.server.answers[step] = partial(machine.close, reason)
            pair.open()
            last = pair.client.take()[-1]
            self.assertEqual(last[:2], ("connection", "closed"))
            self.assertIn("403 no", last[2][1])
            self.assertEqual(
                pair.server.take()[-1], ("connection", "closed", None), step
            )
            self.assertEqual(machine.state, State.CLOSED)

    def test_wrong_greetings(self) -> None:
        """
        A client that speaks something else is told what is spoken here, and nothing
        else, as soon as it can be known; and nothing more is heard.
        """
        for greeting, known in (
            (b"GET / HTTP/1.1\r\n\r\n", 1),
            (b"AMQP\0\1\0\0", 6),
            (b"AMQP\0\0\x09\0", 8),
            (b"\x16\3\1\0\xc8", 1),
            (b"\0" * 100_000, 1),
        ):
            for pieces in ([greeting], octets(greeting[:20])):
                server = ServerRecorder()
                server.receive(*pieces[: known - 1])
                if len(pieces) > 1:
                    self.assertEqual(bytes(server.written), b"", greeting)
                server.receive(*pieces[known - 1 :], HEADER)
                self.assertEqual(bytes(server.written), HEADER)
                ((who, what, (kind, text)),) = server.take()
                self.assertEqual((who, what), ("connection", "closed"))
                self.assertEqual(kind, "ProtocolVersionMismatch")
                self.assertIn("first bytes", text)

    def test_half_a_greeting(self) -> None:
        """
        Half a greeting calls nobody.
        """
        server = ServerRecorder()
        server.receive(b"AMQP", b"\0\0")
        self.assertEqual((server.take(), bytes(server.written)), ([], b""))
        server.machine.lost(ConnectionLost("gone"))
        server.receive(b"\x09\1")
        self.assertEqual((server.take(), bytes(server.written)), ([], b""))


class LimitTests(SynchronousTestCase):
    """
    Tests for ``connection.tune-ok``, which is to stay within what was proposed.
    """

    def tune(self, ours: Limits, theirs: tuple[int, int, int]) -> str:
        """
        What is wrong with a client's limits, or "".
        """
        server = ServerRecorder(ours)
        server.receive(HEADER + START_OK)
        server.written.clear()
        error = server.violated(frames(0, spec.ConnectionTuneOk(*theirs)))
        if error is None:
            return ""
        self.assertEqual(error.reply_code, 530)
        self.assertEqual((error.class_id, error.method_id), (10, 30))
        ((_, close),) = server.sent()
        assert isinstance(close, spec.ConnectionClose)
        self.assertEqual((close.reply_code, close.reply_text), (530, error.reply_text))
        return error.reply_text

    def test_out_of_bounds(self) -> None:
        """
        More than what was proposed is refused, and so is less than what there must be.
        """
        ours = Limits(131072, 2047, 60)
        for theirs, problem in (
            ((2048, 131072, 0), "channel_max = 2048 is higher than the maximum"),
            ((0, 131072, 0), "channel_max = 0 (no limit) is higher than the maximum"),
            ((2047, 131073, 0), "frame_max = 131073 is higher than the maximum"),
            ((2047, 0, 0), "frame_max = 0 (no limit) is higher than the maximum"),
            ((2047, 4095, 0), "frame_max = 4095 is lower than the minimum"),
        ):
            self.assertIn(f"negotiated {problem}", self.tune(ours, theirs))

    def test_within(self) -> None:
        """
        What is within is agreed, and of heartbeats the client has the last word.
        """
        for theirs in ((2047, 131072, 60), (1, 4096, 0), (7, 5000, 600)):
            self.assertEqual(self.tune(Limits(131072, 2047, 60), theirs), "")

    def test_no_limits(self) -> None:
        """
        Without limits of ours, the client's count; and without any, there is still
        one for frames.
        """
        server = ServerRecorder(Limits(0, 0, 0))
        server.receive(HEADER + START_OK + frames(0, spec.ConnectionTuneOk(0, 0, 9)))
        self.assertEqual(server.take()[-1][2], Limits(131072, 0, 9))
        self.assertEqual(self.tune(Limits(0, 0, 0), (5, 4096, 0)), "")

    def test_frames(self) -> None:
        """
        Frames are held to what was agreed, with room for eight octets more.
        """
        server = ServerRecorder(Limits(frame_max=8192))
        server.receive(HEADER)
        server.receive(START_OK + frames(0, spec.ConnectionTuneOk(1, 5000, 0)))
        server.say(0, spec.ConnectionOpen("/"))
        error = server.violated(pack(">BHI", 1, 0, 5001))
        assert error is not None
        self.assertIn("5009 octets, over the 5008", error.reply_text)


class OpenTests(SynchronousTestCase):
    """
    Tests for an open connection.
    """

    def setUp(self) -> None:
        self.pair = Pair().open().forget()
        self.server, self.client = self.pair.server, self.pair.client

    def test_blocked(self) -> None:
        """
        Publishing is blocked, and goes on.
        """
        self.server.machine.block("low on memory")
        self.server.machine.unblock()
        self.pair.run()
        self.assertEqual(
            self.client.take(),
            [
                ("connection", "blocked_by", "low on memory"),
                ("connection", "unblocked"),
            ],
        )

    def test_secret(self) -> None:
        """
        A new secret is told, and answered.
        """
        self.client.machine.update_secret(b"s", "expired", self.client.handle())
        self.pair.run()
        self.assertEqual(
            self.server.take(), [("connection", "secret_updated", b"s", "expired")]
        )
        self.assertEqual(
            self.client.take(), [("call", "callback", spec.ConnectionUpdateSecretOk())]
        )

    def test_heartbeats(self) -> None:
        """
        Heartbeats go both ways and call nobody.
        """
        self.server.machine.heartbeat()
        self.assertEqual(bytes(self.server.written), HEARTBEAT)
        self.client.machine.heartbeat()
        self.pair.run()
        self.assertEqual(self.server.take(), [])

    def test_client_closes(self) -> None:
        """
        The client closes: its channels end, and it gets its answer.
        """
        self.client.begin_channel()
        self.pair.run()
        self.pair.forget()
        self.client.machine.close(ConnectionClosed("bye", reply_code=200))
        self.pair.run()
        ((*closed, (kind, text)),) = self.server.take()
        self.assertEqual(closed, ["connection", "closed"])
        self.assertEqual((kind, text), ("ConnectionClosed", "200 bye"))
        self.assertEqual(self.client.take()[-1], ("connection", "closed", None))
        self.server.machine.lost(ConnectionLost("gone"))
        self.assertEqual(self.server.take(), [(1, "closed")])

    def test_server_closes(self) -> None:
        """
        The server closes: channels end at once, what comes meanwhile is discarded, and
        the client's answer ends it.
        """
        self.client.begin_channel()
        self.pair.run()
        self.pair.forget()
        self.server.machine.close(ConnectionClosed("shutdown", reply_code=320))
        self.assertEqual(self.server.take(), [(1, "closed")])
        self.server.say(1, spec.QueueDeclare(0, "q"), spec.ChannelClose())
        self.server.say(2, spec.ChannelOpen())
        self.server.channels[1].send(spec.QueueDeclareOk())
        self.assertEqual(self.server.take(), [])
        self.pair.run()
        self.assertEqual(self.client.take()[0][2][0], "ConnectionForced")
        self.assertEqual(self.server.take(), [("connection", "closed", None)])
        self.assertRaises(LocalProtocolError, self.server.machine.block, "late")

    def test_both_close(self) -> None:
        """
        Closes that cross end the connection on both sides.
        """
        self.server.machine.close(ConnectionClosed("one", reply_code=320))
        self.client.machine.close(ConnectionClosed("other", reply_code=200))
        self.pair.run()
        for recorder in (self.server, self.client):
            self.assertEqual(recorder.machine.state, State.CLOSED)
            self.assertEqual(
                [event[:2] for event in recorder.take()], [("connection", "closed")]
            )


class ChannelTests(SynchronousTestCase):
    """
    Tests for channels, with a client that keeps to the rules.
    """

    def setUp(self) -> None:
        self.pair = Pair().open().forget()
        self.server, self.client = self.pair.server, self.pair.client

    def open(self) -> Any:
        """
        Open a channel.

        :returns: both ends of it.
        """
        channel = self.client.begin_channel()
        self.pair.run()
        self.pair.forget()
        return channel, self.server.channels[channel.number]

    def test_open(self) -> None:
        """
        The client is told that it is open before the server's sink can say anything.
        """
        server = self.server
        server.answers["channel_opened"] = lambda: server.channels[1].send(
            spec.ChannelFlow(False)
        )
        self.client.begin_channel()
        self.pair.run()
        opened = ("connection", "channel_opened", 1)
        answered = (1, "called", spec.ChannelFlowOk(False))
        self.assertEqual(server.take(), [opened, answered])
        self.assertEqual(self.client.kinds(), [("open", "callback"), (1, "flow")])

    def test_call(self) -> None:
        """
        Methods go to the server, and their answers back.
        """
        channel, served = self.open()
        channel.call(spec.QueueDeclare(0, "q"), self.client.handle())
        self.pair.run()
        self.assertEqual(self.server.take(), [(1, "called", spec.QueueDeclare(0, "q"))])
        served.send(spec.QueueDeclareOk("q", 1, 2))
        self.pair.run()
        self.assertEqual(
            self.client.take(), [("call", "callback", spec.QueueDeclareOk("q", 1, 2))]
        )

    def test_content_up(self) -> None:
        """
        Messages go to the server: none, one and several frames of them, and however
        the bytes are cut.
        """
        for piece in (0, 1, 1000):
            pair = self.pair = Pair(Limits(frame_max=4096), piece=piece).open()
            self.client, self.server = pair.client, pair.server
            channel, _ = self.open()
            bodies = [b"", b"x", bytes(4088), bytes(4089), bytes(9000)]
            for body in bodies:
                channel.publish("x", "key", body, b"\0\0", False, None)
            pair.run()
            self.assertEqual(
                pair.server.take(),
                [(1, "published", PUBLISH, b"\0\0", body) for body in bodies],
            )

    def test_content_down(self) -> None:
        """
        And to the client, in frames no larger than agreed.
        """
        pair = self.pair = Pair(Limits(frame_max=4096)).open()
        self.client, self.server = pair.client, pair.server
        channel, served = self.open()
        bodies = [b"", b"x", bytes(4088), bytes(9000)]
        for body in bodies:
            channel.call(spec.BasicGet(0, "q"), self.client.handle())
            served.send_content(spec.BasicGetOk(1), b"\0\0", body)
        pair.run()
        self.assertEqual([event[2].body for event in self.client.take()], bodies)

    def test_oversized(self) -> None:
        """
        A body over the limit is not kept, and the channel goes on.
        """
        pair = self.pair = Pair(server=Limits(max_body=10)).open()
        self.client, self.server = pair.client, pair.server
        channel, _ = self.open()
        for size in (11, 10):
            channel.publish("x", "key", bytes(size), b"\0\0", False, None)
        pair.run()
        bodies = [event[4] for event in pair.server.take()]
        self.assertEqual(bodies, [None, bytes(10)])

    def test_client_closes(self) -> None:
        """
        The client closes a channel, and its number is free again.
        """
        channel, served = self.open()
        channel.close(200, "bye", self.client.handle("close"))
        self.pair.run()
        self.assertEqual(self.server.take(), [(1, "closed")])
        self.assertFalse(served.is_open)
        served.send(spec.BasicAck(1))
        served.send_content(spec.BasicDeliver(), b"\0\0", b"late")
        served.close(404, "late")
        self.assertEqual(bytes(self.server.written), b"")
        self.server.say(1, spec.ChannelOpen())
        self.assertEqual(self.server.take(), [("connection", "channel_opened", 1)])

    def test_server_closes(self) -> None:
        """
        The server closes a channel: until the client has agreed all is discarded, and
        then the number is free.
        """
        channel, served = self.open()
        channel.call(spec.QueueDeclare(0, "q"), self.client.handle())
        served.close(404, "no queue", 50, 10)
        served.close(404, "again")
        self.pair.run()
        self.assertEqual(self.server.take(), [], "not even that it has closed")
        kinds = [event[:2] for event in self.client.take()]
        self.assertEqual(kinds, [("call", "errback"), (1, "closed")])
        self.server.say(1, spec.ChannelOpen())
        self.assertEqual(self.server.take(), [("connection", "channel_opened", 1)])

    def test_both_close(self) -> None:
        """
        Closes that cross: both are answered.
        """
        channel, served = self.open()
        channel.close(200, "bye", self.client.handle("close"))
        served.close(404, "no queue")
        self.pair.run()
        self.assertEqual(self.client.kinds(), [("close", "errback"), (1, "closed")])
        self.assertIs(self.open()[0].number, 2)
        self.server.say(1, spec.ChannelOpen())
        self.assertEqual(self.server.take(), [("connection", "channel_opened", 1)])

    def test_closed_while_discarding(self) -> None:
        """
        The connection may end before the client has agreed to a channel's end.
        """
        _, served = self.open()
        served.close(404, "no queue")
        self.server.machine.lost(ConnectionLost("gone"))
        self.assertEqual(self.server.take(), [])

    def test_closed_while_assembling(self) -> None:
        """
        The connection may end while a body is incomplete, which nobody is told of.
        """
        self.open()
        self.server.receive(content(1, PUBLISH, b"body")[:-3])
        self.server.machine.lost(ConnectionLost("gone"))
        self.assertEqual(self.server.take(), [(1, "closed")])

    def test_assembler(self) -> None:
        """
        What is shared with the client's end does not know what methods mean.
        """
        self.assertRaises(NotImplementedError, Assembler(1, []).receive_method, b"")

    def test_large_and_not_kept(self) -> None:
        """
        A body over the limit is not kept, however many frames it has.
        """
        pair = self.pair = Pair(Limits(frame_max=4096), Limits(max_body=10)).open()
        self.client, self.server = pair.client, pair.server
        channel, _ = self.open()
        channel.publish("x", "key", bytes(9000), b"\0\0", False, None)
        pair.run()
        self.assertEqual(pair.server.take()[0][4], None)

    def test_closed_from_inside(self) -> None:
        """
        A sink may close the channel from inside of a message; the frames that came
        with it are discarded.
        """
        channel, served = self.open()
        self.server.answers["published"] = lambda: served.close(404, "no exchange")
        for _ in range(2):
            channel.publish("x", "key", b"body", b"\0\0", False, None)
        self.pair.run()
        self.assertEqual(len(self.server.take()), 1)


class ViolationTests(SynchronousTestCase):
    """
    Tests for clients that break the rules.
    """

    def say(
        self, server: ServerRecorder, data: bytes
    ) -> tuple[RemoteProtocolError, list[tuple[int, Method]]]:
        """
        Break a rule.

        :returns: which, and what the client is told.
        """
        server.written.clear()
        error = server.violated(data)
        assert error is not None, data
        self.assertIs(server.machine.state, State.CLOSED)
        sent = server.sent()
        server.receive(HEARTBEAT, data)
        self.assertEqual(server.sent(), [])
        return error, sent

    def test_strangers(self) -> None:
        """
        Who has not been let in is told nothing.
        """
        opened = frames(0, spec.ConnectionOpen("/"))
        for before, data, code in (
            (b"", TUNE_OK, 504),
            (b"", opened, 504),
            (b"", frames(1, spec.ChannelOpen()), 505),
            (b"", b"\xff" * 20, 501),
            (b"", frames(0, spec.ConnectionStart()), 504),
            (START_OK, START_OK, 504),
            (START_OK, opened, 504),
            (START_OK, frames(0, spec.ConnectionSecureOk(b"?")), 504),
            (START_OK, raw(1, 0, b"\0\x0a\0\xff"), 540),
        ):
            server = ServerRecorder()
            server.receive(HEADER + before)
            error, sent = self.say(server, data)
            self.assertEqual(error.reply_code, code, data)
            self.assertEqual(sent, [])

    def test_challenged(self) -> None:
        """
        Neither is one that does not answer the challenge.
        """
        server = ServerRecorder()
        server.answers["authenticating"] = lambda: server.machine.challenge(b"?")
        server.receive(HEADER + START_OK)
        error, sent = self.say(server, TUNE_OK)
        self.assertEqual((error.reply_code, sent), (504, []))

    def test_early_channel(self) -> None:
        """
        A channel before the virtual host is refused.
        """
        server = ServerRecorder()
        server.receive(HEADER + START_OK + TUNE_OK)
        error, sent = self.say(server, frames(1, spec.ChannelOpen()))
        self.assertIn("channel.open, while the connection is agreed", str(error))
        self.assertEqual([code(each) for each in sent], [505])

    def test_open(self) -> None:
        """
        On an open connection, whoever breaks the rules is told, with the code, and the
        method if it is known.
        """
        publish = frames(1, PUBLISH)
        header = raw(2, 1, pack(">HHQH", 60, 0, 3, 0))
        for data, expected in (
            (frames(0, spec.ConnectionOpen("/")), (504, 10, 40)),
            (frames(0, spec.ConnectionCloseOk()), (504, 10, 51)),
            (frames(0, spec.QueueDeclare()), (504, 50, 10)),
            (raw(2, 0, b""), (505, 0, 0)),
            (frames(2, spec.QueueDeclare()), (504, 50, 10)),
            (content(2, PUBLISH, b"body"), (504, 60, 40)),
            (raw(2, 2, b""), (505, 0, 0)),
            (raw(3, 2, b""), (505, 0, 0)),
            (frames(1, spec.ChannelOpen()), (504, 20, 10)),
            (raw(3, 1, b"x"), (505, 0, 0)),
            (publish + publish, (505, 60, 40)),
            (publish + content(1, PUBLISH, b"body"), (505, 60, 40)),
            (publish + raw(2, 1, bytes(11)), (502, 60, 40)),
            (publish + raw(2, 1, pack(">HHQH", 50, 0, 3, 0)), (501, 60, 40)),
            (publish + raw(2, 1, pack(">HHQH", 60, 1, 3, 0)), (501, 60, 40)),
            (publish + header + publish, (505, 60, 40)),
            (publish + header + raw(3, 1, b"abcd"), (501, 60, 40)),
            (raw(1, 1, b"\0\x3c\0\xff"), (540, 60, 255)),
            (raw(1, 1, spec.QueueDeclare().encode()[:-1]), (502, 50, 10)),
            (raw(8, 1, b""), (503, 0, 0)),
            (raw(4, 1, b""), (501, 0, 0)),
        ):
            server = ServerRecorder().open(1)
            error, sent = self.say(server, data)
            ids = (error.reply_code, error.class_id, error.method_id)
            self.assertEqual(ids, expected, data)
            ((_, close),) = sent
            assert isinstance(close, spec.ConnectionClose)
            said = (close.reply_code, close.class_id, close.method_id)
            self.assertEqual(said, expected)

    def test_open_before_agreeing(self) -> None:
        """
        A channel that the server has closed cannot be opened before the client has
        agreed to that.
        """
        server = ServerRecorder().open(1)
        server.channels[1].close(404, "no queue")
        server.receive(raw(2, 1, b""), raw(3, 1, b""), content(1, PUBLISH, b"x"))
        error, _ = self.say(server, frames(1, spec.ChannelOpen()))
        self.assertEqual(str(error), "504 second 'channel.open' seen")

    def test_too_many_channels(self) -> None:
        """
        No more channels can be open than was agreed, by whatever numbers.
        """
        server = ServerRecorder(Limits(channel_max=3))
        tune_ok = frames(0, spec.ConnectionTuneOk(3, 131072, 0))
        server.receive(HEADER + START_OK + tune_ok)
        server.say(0, spec.ConnectionOpen("/"))
        for number in (10, 65535, 4):
            server.say(number, spec.ChannelOpen())
        error, _ = self.say(server, frames(1, spec.ChannelOpen()))
        self.assertEqual(
            str(error),
            "530 number of channels opened (3) has reached the negotiated "
            "channel_max (3)",
        )

    def test_while_closing(self) -> None:
        """
        Once the server has said that it closes, it says nothing else.
        """
        server = ServerRecorder().open()
        server.machine.close(ConnectionClosed("shutdown", reply_code=320))
        _, sent = self.say(server, raw(4, 0, b""))
        self.assertEqual(sent, [])

    def test_text_too_long(self) -> None:
        """
        A reason that does not fit is cut.
        """
        server = ServerRecorder().open()
        server.machine.close(ConnectionClosed("\u20ac" * 100, reply_code=541))
        ((_, close),) = server.sent()
        assert isinstance(close, spec.ConnectionClose)
        self.assertEqual(close.reply_text, "\u20ac" * 85)

    def test_channels_are_told(self) -> None:
        """
        The channels end with the connection, once.
        """
        server = ServerRecorder().open(1, 2)
        error, _ = self.say(server, raw(4, 0, b""))
        lost: AMQPError = error
        server.machine.lost(lost)
        server.machine.lost(lost)
        self.assertEqual(server.take(), [(1, "closed"), (2, "closed")])


def code(said: tuple[int, Method]) -> int:
    """
    The code of a close.
    """
    _, method = said
    assert isinstance(method, spec.ConnectionClose)
    return method.reply_code
