# -*- test-case-name: txamqp091.test.unit.client.test_credentials -*-
"""
Tests for `txamqp091.credentials`: what is sent, what is chosen, and what is never
shown.
"""

from __future__ import annotations

import pickle
from traceback import format_exception

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txamqp091.credentials import (
    AMQPlainCredentials,
    AnonymousCredentials,
    ExternalCredentials,
    PlainCredentials,
    choose,
)
from txamqp091.errors import (
    CommandInvalid,
    InvalidURI,
    LocalProtocolError,
    MechanismNotOffered,
)
from txamqp091.interfaces import ICredentials

CANARY = "canary-9f3a"

ALL: list[ICredentials] = [
    PlainCredentials("user", CANARY),
    AMQPlainCredentials("user", CANARY),
    ExternalCredentials(),
    AnonymousCredentials(),
]


def verbose(failure: Failure) -> str:
    """
    All that a failure has to tell, with the variables of our functions in it.
    Those of the tests know the secret, of course.
    """
    return "\n".join(
        (
            str(failure),
            repr(failure),
            failure.getTraceback(),
            "".join(format_exception(failure.value)),
            *(
                f"{function} {line} {variables!r}"
                for function, file, line, variables, _ in failure.frames
                if "txamqp091/test/" not in file
            ),
        )
    )


class MechanismTests(SynchronousTestCase):
    """
    What each mechanism answers.
    """

    def test_interface(self) -> None:
        """
        All of them provide `ICredentials`, under the mechanism's name.
        """
        for each in ALL:
            verifyObject(ICredentials, each)
        self.assertEqual(
            [each.mechanism for each in ALL],
            ["PLAIN", "AMQPLAIN", "EXTERNAL", "ANONYMOUS"],
        )

    def test_plain(self) -> None:
        """
        PLAIN is an empty identity, the user and the password, by RFC 4616.
        """
        self.assertEqual(
            PlainCredentials("ül", "p w").respond(None), b"\0\xc3\xbcl\0p w"
        )

    def test_plain_bytes(self) -> None:
        """
        What was no UTF-8 in a URI is sent as it was.
        """
        self.assertEqual(PlainCredentials("u", "\udcff").respond(None), b"\0u\0\xff")

    def test_amqplain(self) -> None:
        """
        AMQPLAIN is a field table of long strings, without its length.
        """
        self.assertEqual(
            AMQPlainCredentials("guest", "pw").respond(None),
            b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x02pw",
        )

    def test_empty_responses(self) -> None:
        """
        EXTERNAL and ANONYMOUS say nothing: the certificate, or nobody, speaks.
        """
        self.assertEqual(ExternalCredentials().respond(None), b"")
        self.assertEqual(AnonymousCredentials().respond(None), b"")

    def test_unexpected_challenge(self) -> None:
        """
        A challenge is an error of the broker's for every mechanism here, and is
        never answered.
        """
        for each in ALL:
            error = self.assertRaises(CommandInvalid, each.respond, b"")
            self.assertIn(each.mechanism, str(error))
            self.assertEqual(error.reply_code, 503)

    def test_nul(self) -> None:
        """
        A NUL would end the user name early: it is refused, whichever part has it.
        """
        for kind in (PlainCredentials, AMQPlainCredentials):
            for arguments in (("a\0b", CANARY), ("a", CANARY + "\0")):
                error = self.assertRaises(InvalidURI, kind, *arguments)
                self.assertIsInstance(error, LocalProtocolError)
                self.assertIn("NUL", str(error))

    def test_text_only(self) -> None:
        """
        User and password are text that can be encoded, and nothing else.
        """
        self.assertRaises(InvalidURI, PlainCredentials, b"user", "password")
        self.assertRaises(InvalidURI, PlainCredentials, "user", None)
        self.assertRaises(InvalidURI, PlainCredentials, "user", "\ud800")

    def test_equality(self) -> None:
        """
        Credentials are equal when they would say the same.
        """
        self.assertEqual(PlainCredentials("a", "b"), PlainCredentials("a", "b"))
        self.assertNotEqual(PlainCredentials("a", "b"), PlainCredentials("a", "c"))
        self.assertNotEqual(PlainCredentials("a", "b"), AMQPlainCredentials("a", "b"))
        self.assertEqual(ExternalCredentials(), ExternalCredentials())
        self.assertNotEqual(ExternalCredentials(), AnonymousCredentials())
        self.assertEqual(len({*ALL, *ALL}), 4)

    def test_pickle(self) -> None:
        """
        Credentials can be sent to a process of one's own.
        """
        for each in ALL:
            self.assertEqual(pickle.loads(pickle.dumps(each)), each)


class OwnCredentialsTests(SynchronousTestCase):
    """
    Credentials written by a user, as the interface's documentation shows.
    """

    def test_later(self) -> None:
        """
        A response may come later, and each connection asks for a new one.
        """
        fetched: list[Deferred[bytes]] = []

        @implementer(ICredentials)
        class Token:
            mechanism = "PLAIN"

            def respond(self, challenge: bytes | None) -> Deferred[bytes]:
                waiting: Deferred[bytes] = Deferred()
                fetched.append(waiting)
                return waiting.addCallback(lambda token: b"\0\0" + token)

        token = Token()
        verifyObject(ICredentials, token)
        chosen = choose([token], b"PLAIN")
        for number, secret in enumerate((b"first", b"second"), 1):
            response = maybeDeferred(chosen.respond, None)
            self.assertNoResult(response)
            self.assertEqual(len(fetched), number)
            fetched[-1].callback(secret)
            self.assertEqual(self.successResultOf(response), b"\0\0" + secret)


class ChooseTests(SynchronousTestCase):
    """
    Criterion 27: the mechanism is what was configured, never the server's choice.
    """

    def test_our_order(self) -> None:
        """
        The first of ours that is offered is taken, whatever comes first there.
        """
        plain, amqplain, external, _ = ALL
        self.assertIs(choose([external, plain], b"PLAIN EXTERNAL"), external)
        self.assertIs(choose([plain, external], b"EXTERNAL PLAIN"), plain)
        self.assertIs(choose([external, amqplain], b"PLAIN AMQPLAIN"), amqplain)

    def test_any_case(self) -> None:
        """
        The names of mechanisms are compared without regard to case.
        """
        self.assertIs(choose(ALL, b"plain"), ALL[0])

    def test_whole_names(self) -> None:
        """
        PLAIN is not found inside of AMQPLAIN.
        """
        self.assertRaises(MechanismNotOffered, choose, [ALL[0]], b"AMQPLAIN")

    def test_nothing_unasked(self) -> None:
        """
        A password is not exchanged for EXTERNAL, ANONYMOUS or AMQPLAIN, although
        the broker offers just those; the error names both lists.
        """
        error = self.assertRaises(
            MechanismNotOffered, choose, [ALL[0]], b"AMQPLAIN EXTERNAL ANONYMOUS"
        )
        self.assertIn("AMQPLAIN, EXTERNAL, ANONYMOUS", str(error))
        self.assertIn("for PLAIN", str(error))

    def test_no_offer(self) -> None:
        """
        A broker that offers nothing, or what is no text, gets nothing.
        """
        error = self.assertRaises(MechanismNotOffered, choose, ALL, b"  ")
        self.assertIn("offers nothing", str(error))
        error = self.assertRaises(MechanismNotOffered, choose, ALL, b"\xff\x1b[2J" * 99)
        self.assertTrue(str(error).isprintable())
        self.assertLess(len(str(error)), 600)


class CanaryTests(SynchronousTestCase):
    """
    Criterion 28: the password is seen nowhere.
    """

    def test_text_of_objects(self) -> None:
        """
        Neither repr nor str nor a format of credentials shows it; the user may
        be seen.
        """
        for each in ALL:
            self.assertNotIn(CANARY, f"{each!r} {each} {[each]} {vars(type(each))}")
        self.assertEqual(repr(ALL[0]), "PlainCredentials('user', ***)")

    def test_failures(self) -> None:
        """
        A failure with all of its frames' variables does not show it.
        """
        failures = []
        for each in ALL:
            for action in (
                lambda each=each: each.respond(b"challenge"),
                lambda each=each: choose([each], b"NOTHING"),
            ):
                try:
                    action()
                except Exception:
                    failures.append(Failure(captureVars=True))
        self.assertEqual(len(failures), 8)
        for failure in failures:
            self.assertIn("challenge", verbose(failures[0]))
            self.assertNotIn(CANARY, verbose(failure))

    def test_refused_password(self) -> None:
        """
        Nor does the failure of making credentials, in our frames.
        """
        try:
            PlainCredentials("user", CANARY + "\0")
        except InvalidURI:
            failure = Failure(captureVars=True)
        self.assertNotIn(CANARY, verbose(failure))
