# -*- test-case-name: txamqp091.test.unit.client.test_errors -*-
"""
Tests for `txamqp091.errors`: the tree, the classes of reply codes, and the texts.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.errors import (
    AMQPError,
    BatchFailed,
    ChannelClosed,
    Closed,
    ConnectionClosed,
    ConsumerCancelled,
    ContentTooLarge,
    EncodeError,
    LocalProtocolError,
    Nacked,
    PublishFailed,
    RemoteProtocolError,
    Returned,
    UndecodableProperty,
    channel_closed,
    connection_closed,
    printable,
)


def classes() -> Iterator[type[AMQPError]]:
    """
    Every class of the tree.
    """
    for name in errors.__all__:
        value = getattr(errors, name)
        if isinstance(value, type):
            yield value


class TreeTests(SynchronousTestCase):
    """
    Tests for the tree.
    """

    def test_one_root(self) -> None:
        """
        Everything is an `AMQPError`, and everything is exported.
        """
        self.assertGreater(len(list(classes())), 40)
        for each in classes():
            self.assertTrue(issubclass(each, AMQPError), each)
        here = {
            name
            for name, value in vars(errors).items()
            if isinstance(value, type) and issubclass(value, Exception)
        }
        self.assertEqual(here - set(errors.__all__), set())

    def test_whose_fault(self) -> None:
        """
        Our faults, the peer's, ends and lost messages are kept apart.
        """
        branches = (LocalProtocolError, Closed, PublishFailed)
        for each in classes():
            self.assertLessEqual(
                sum(issubclass(each, one) for one in branches), 1, each
            )
        self.assertTrue(issubclass(RemoteProtocolError, ConnectionClosed))

    def test_retriable(self) -> None:
        """
        Each says whether to try again can help.
        """
        retriable = {each.__name__ for each in classes() if each.retriable is True}
        self.assertEqual(
            retriable,
            {
                "CallTimeout",
                "ChannelsExhausted",
                "ConnectFailed",
                "ConnectionBlocked",
                "ConnectionClosed",
                "ConnectionForced",
                "ConnectionLost",
                "ConsumerCancelled",
                "DeliveryAckTimeout",
                "HandshakeTimeout",
                "HeartbeatTimeout",
                "InternalError",
                "LimitReached",
                "Nacked",
                "PublisherFull",
                "ResourceError",
                "ResourceLocked",
            },
        )

    def test_codes_of_faults(self) -> None:
        """
        Each of the peer's faults is answered with the code that AMQP has for it.
        """
        codes = {
            each.__name__: each.reply_code
            for each in classes()
            if issubclass(each, RemoteProtocolError)
        }
        self.assertEqual(
            codes,
            {
                "RemoteProtocolError": 501,
                "FrameError": 501,
                "DecodeError": 502,
                "CommandInvalid": 503,
                "ChannelError": 504,
                "UnexpectedFrame": 505,
                "MethodNotImplemented": 540,
                "ProtocolVersionMismatch": 501,
            },
        )


class CodeTests(SynchronousTestCase):
    """
    Tests for what a reply code becomes.
    """

    def test_channel(self) -> None:
        """
        Criterion 11: the broker's reasons for closing a channel are types of their
        own, with code, text, class and method.
        """
        for code, kind in (
            (403, errors.AccessRefused),
            (404, errors.NotFound),
            (405, errors.ResourceLocked),
            (406, errors.PreconditionFailed),
            (311, ChannelClosed),
            (0, ChannelClosed),
        ):
            error = channel_closed(code, "no", 50, 10, "queue.declare")
            self.assertIs(type(error), kind)
            self.assertEqual(
                (error.reply_code, error.reply_text, error.class_id, error.method_id),
                (code, "no", 50, 10),
            )
            self.assertEqual(error.operation, "queue.declare")
            self.assertFalse(error.by_us)

    def test_ack_timeout(self) -> None:
        """
        A delivery that was not acknowledged in time is a 406 of its own kind.
        """
        text = (
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. "
            "Timeout value used: 1800000 ms"
        )
        error = channel_closed(406, text)
        self.assertIs(type(error), errors.DeliveryAckTimeout)
        self.assertTrue(error.retriable)
        other = channel_closed(404, text)
        self.assertIs(type(other), errors.NotFound)

    def test_connection(self) -> None:
        """
        Criterion 11: the broker's reasons for closing a connection are types of
        their own.
        """
        for code, operation, kind in (
            (320, "", errors.ConnectionForced),
            (403, "connection.start-ok", errors.AuthenticationFailed),
            (506, "", errors.ResourceError),
            (530, "connection.open", errors.VhostAccessRefused),
            (530, "queue.declare", errors.NotAllowed),
            (540, "", errors.NotImplementedByBroker),
            (541, "", errors.InternalError),
            (501, "", ConnectionClosed),
            (200, "", ConnectionClosed),
        ):
            error = connection_closed(code, "no", 10, 40, operation)
            self.assertIs(type(error), kind)
            self.assertEqual((error.reply_code, error.class_id), (code, 10))
            self.assertEqual(error.method_id, 40)

    def test_limits(self) -> None:
        """
        A limit that is reached passes, whatever its text calls it; and a name with
        that word in it is no limit.
        """
        access = (
            "access to vhost '/' refused for user 'u': connection limit (1) is reached"
        )
        channels = (
            "number of channels opened {} has reached the maximum allowed {} (10)"
        )
        for text, operation in (
            ("user connection limit (1) is reached", "connection.open"),
            ("connection refused: node connection limit (9) is reached", ""),
            (access, "connection.open"),
            (channels.format("for user 'u'", "user limit of"), "channel.open"),
            (channels.format("on node 'rabbit@a'", "limit of"), "channel.open"),
        ):
            error = connection_closed(530, f"NOT_ALLOWED - {text}", 10, 40, operation)
            self.assertIs(type(error), errors.LimitReached)
            self.assertTrue(error.retriable)
            self.assertIsInstance(error, errors.NotAllowed)
        for text in (
            "access to vhost 'no limit' refused for user 'limit'",
            "vhost limit not found",
        ):
            error = connection_closed(530, text, 10, 40, "connection.open")
            self.assertIs(type(error), errors.VhostAccessRefused)
            self.assertFalse(error.retriable)

    def test_down(self) -> None:
        """
        A virtual host that is down comes back, whichever code the broker uses.
        """
        text = "access to vhost 'v' refused for user 'u': vhost 'v' is down"
        for code in (530, 541):
            error = connection_closed(code, text, 10, 40, "connection.open")
            self.assertTrue(error.retriable)
            self.assertTrue(pickle.loads(pickle.dumps(error)).retriable)

    def test_our_own_code(self) -> None:
        """
        A class has a code of its own, which one object may differ from.
        """
        self.assertEqual(errors.AuthenticationFailed("no").reply_code, 403)
        self.assertEqual(errors.AuthenticationFailed("no", reply_code=0).reply_code, 0)
        self.assertEqual(ConnectionClosed().reply_code, 0)

    def test_reason(self) -> None:
        """
        What lies below is the cause.
        """
        cause = OSError("reset")
        error = errors.ConnectionLost("gone")
        self.assertIsNone(error.reason)
        error.__cause__ = cause
        self.assertIs(error.reason, cause)


class TextTests(SynchronousTestCase):
    """
    Tests for what errors say.
    """

    def test_closed(self) -> None:
        """
        The end of a channel tells code, text and operation, as far as there are
        any.
        """
        for error, text in (
            (channel_closed(404, "no queue 'q'"), "404 no queue 'q'"),
            (
                channel_closed(404, "no", 50, 10, "queue.declare"),
                "404 no (answering queue.declare)",
            ),
            (ConnectionClosed("bye", by_us=True), "bye"),
            (errors.FrameError("what?"), "501 what?"),
            (Closed(), ""),
            (
                connection_closed(0, ""),
                "the connection was closed without a reason",
            ),
            (channel_closed(0, ""), "the channel was closed without a reason"),
            (
                connection_closed(320, ""),
                "320 the connection was closed without a reason",
            ),
        ):
            self.assertEqual(str(error), text)

    def test_from_the_broker(self) -> None:
        """
        Criterion 29: the broker's words come into a log on one line, without
        control characters, and cut; they are kept as they came.
        """
        rude = "\x1b[31mred\r\nnext\0\N{RIGHT-TO-LEFT OVERRIDE}\udcff" + "x" * 300
        for error in (
            channel_closed(404, rude),
            connection_closed(320, rude),
            Returned(None, 312, rude),
            ConsumerCancelled(rude, rude),
            errors.ConnectionBlocked(rude, True),
            errors.CallFailed(rude),
        ):
            self.assertTrue(str(error).isprintable(), error)
            self.assertNotIn("\n", str(error))
        self.assertEqual(channel_closed(404, rude).reply_text, rude)

    @given(st.text(max_size=300), st.integers(3, 300))
    def test_printable(self, text: str, limit: int) -> None:
        """
        Any text becomes printable, and one that is so already stays.
        """
        shown = printable(text, limit)
        self.assertTrue(shown.isprintable())
        if text.isprintable() and len(text) <= limit:
            self.assertEqual(shown, text)
        if text.isprintable():
            self.assertLessEqual(len(shown), limit)

    def test_cut(self) -> None:
        """
        A text is cut at 255 characters, and shows that it was.
        """
        self.assertEqual(printable("x" * 255), "x" * 255)
        self.assertEqual(printable("x" * 256), "x" * 252 + "...")
        self.assertEqual(printable("a\nb"), "a\\nb")

    def test_others(self) -> None:
        """
        Each of the others says what is wrong, and where.
        """
        for error, text in (
            (EncodeError("headers['a']", "a set"), "headers['a']: a set"),
            (
                UndecodableProperty("headers", "too deep", b""),
                "the message property headers cannot be decoded: too deep",
            ),
            (
                ContentTooLarge(10, 5),
                (
                    "a message body of 10 bytes is over the limit of 5 "
                    "(the parameter max_body_size)"
                ),
            ),
            (Nacked(), "the broker could not keep the message (basic.nack)"),
            (Returned(None, 312, "NO_ROUTE"), "312 NO_ROUTE"),
            (
                ConsumerCancelled("tag", "q"),
                "the broker cancelled the consumer tag of the queue 'q': "
                + ConsumerCancelled("tag", "q").cause,
            ),
            (
                errors.ConnectionBlocked("low on memory", False),
                "the broker blocks publishing: low on memory",
            ),
            (
                errors.ConnectionBlocked("low on memory", True),
                (
                    "the broker blocks publishing: low on memory; it can accept the "
                    "message later"
                ),
            ),
            (errors.CallFailed("KeyError"), "the server has failed: KeyError"),
        ):
            self.assertEqual(str(error), text)

    def test_batch(self) -> None:
        """
        A batch tells of its first failure, and may be tried again if all of them
        may.
        """
        returned = Returned(None, 312, "NO_ROUTE")
        failures: list[tuple[int, BaseException]] = [(3, Nacked()), (5, returned)]
        error = BatchFailed(failures)
        self.assertEqual(
            str(error),
            "2 messages of the batch failed, the first of them number 3: the broker "
            "could not keep the message (basic.nack)",
        )
        self.assertFalse(error.retriable)
        self.assertTrue(BatchFailed(failures[:1]).retriable)
        self.assertFalse(BatchFailed([(0, ValueError())]).retriable)

    def test_reprs(self) -> None:
        """
        Each shows its class and its words.
        """
        self.assertEqual(repr(errors.NotFound("no")), "NotFound('no')")

    def test_copies(self) -> None:
        """
        Every error can be copied, and sent to another process, with all that it says.
        """
        message = ("", "q", b"body")
        special: dict[type[AMQPError], AMQPError] = {
            each: each("text", reply_code=404, operation="x.y", by_us=True)
            for each in classes()
            if issubclass(each, Closed) and not issubclass(each, RemoteProtocolError)
        }
        arguments: tuple[AMQPError, ...] = (
            errors.DecodeError("bad", 50, 10),
            EncodeError("path", "problem"),
            UndecodableProperty("headers", "too deep", b"raw"),
            ContentTooLarge(2, 1),
            Returned(message, 312, "NO_ROUTE"),
            BatchFailed([(0, Nacked())]),
            ConsumerCancelled("tag", "q"),
            errors.ConnectionBlocked("low on memory", True),
            errors.CallFailed("KeyError"),
            errors.TopologyFailed([("q", errors.NotFound("no"))]),
        )
        for error in arguments:
            special[type(error)] = error
        for each in classes():
            error = special.get(each) or each("text")
            error.add_note("a note")
            for again in (
                copy.copy(error),
                copy.deepcopy(error),
                *(
                    pickle.loads(pickle.dumps(error, protocol))
                    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
                ),
            ):
                self.assertIs(type(again), each)
                self.assertEqual(str(again), str(error))
                self.assertEqual(repr(again.args), repr(error.args))
                self.assertEqual(vars(again).keys(), vars(error).keys())
                for name, value in vars(error).items():
                    self.assertEqual(repr(vars(again)[name]), repr(value), name)

    def test_call_failed(self) -> None:
        """
        The answer to a failed call stays where it came: its channel cannot travel.
        """
        error = errors.CallFailed("KeyError", delivery := object())
        self.assertIs(error.delivery, delivery)
        self.assertIsNone(pickle.loads(pickle.dumps(error)).delivery)
        self.assertIs(error.delivery, delivery)
