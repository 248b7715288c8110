# -*- test-case-name: txamqp091.test.unit.daemon.test_tokens -*-
"""
Where a daemon's token comes from, how long it is good for, and that nobody sees it.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txamqp091.credentials import PlainCredentials
from txamqp091.daemon.builder import check_parts, make_daemon
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.handler_loading import HandlerNotFound
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.settings import Settings
from txamqp091.daemon.settings_loading import load
from txamqp091.daemon.settings_schema import Problem
from txamqp091.daemon.tokens import TokenSettings, TokenSource, check_token, find_token
from txamqp091.errors import AuthenticationFailed, ConnectFailed, VhostAccessRefused
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.service import Secret, SecretUnavailable
from txamqp091.test.support.service_case import ProcessCase

CANARY = "canary-token"

NOW = 1_000_000.0

#: What the functions below return.
ANSWERS: list[object] = []


def give() -> object:
    """
    A function of a user.
    """
    return ANSWERS.pop(0)


async def give_later() -> object:
    """
    Another one.
    """
    return ANSWERS.pop(0)


def take(delivery: Delivery) -> None:
    """
    A handler.
    """


def web_token(claims: object) -> str:
    """
    A JSON Web Token, as far as anybody looks at it here.
    """
    parts = [{"alg": "RS256"}, claims]
    encoded = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode()
        for each in parts
    ]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


class Threads:
    """
    Runs in no thread at all, and says so.
    """

    def __init__(self) -> None:
        self.ran = 0

    def run(self, function: Callable[[Any], object], argument: Any) -> Any:
        """
        See `txamqp091._threads.ThreadRunner.run`.
        """
        self.ran += 1
        return succeed(function(argument))


class SourceCase(SynchronousTestCase):
    """
    A source of tokens.
    """

    def source(self, **settings: Any) -> TokenSource:
        """
        Make one.
        """
        self.threads = Threads()
        chosen = TokenSettings(**settings)
        check_token(chosen)
        find_token(chosen)
        threads: Any = self.threads
        return TokenSource(None, chosen, "guest", threads, now=lambda: NOW)

    def fetched(self, **settings: Any) -> tuple[str, str, float | None]:
        """
        What is fetched.
        """
        secret = self.successResultOf(self.source(**settings)())
        return secret.username, secret.password, secret.lifetime

    def unavailable(self, **settings: Any) -> str:
        """
        Why nothing is; no token is in it.
        """
        failure = self.failureResultOf(self.source(**settings)(), SecretUnavailable)
        self.assertNotIn(CANARY, str(failure.value))
        return str(failure.value)


class TextTests(SourceCase):
    """
    What a token says.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def read(self, text: str, **settings: Any) -> tuple[str, str, float | None]:
        """
        What comes of a file.
        """
        self.path.write_text(text)
        return self.fetched(file=str(self.path), **settings)

    def refused(self, text: str, **settings: Any) -> str:
        """
        Why nothing comes of it.
        """
        self.path.write_text(text)
        return self.unavailable(file=str(self.path), **settings)

    def test_opaque(self) -> None:
        """
        A word is a token, good for as long as the settings say.
        """
        self.assertEqual(self.read(f"{CANARY}\n"), ("guest", CANARY, None))
        self.assertEqual(
            self.read(CANARY, lifetime=300.0, username="ann"), ("ann", CANARY, 300)
        )

    def test_web_token(self) -> None:
        """
        A JSON Web Token says when it expires; one that does not say is as any other.
        """
        token = web_token({"exp": NOW + 600, "sub": "x"})
        self.assertEqual(self.read(token, lifetime=5.0)[1:], (token, 600))
        for claims in ({"sub": "x"}, {"exp": "soon"}, {"exp": True}, ["exp"]):
            token = web_token(claims)
            self.assertEqual(self.read(token, lifetime=5.0)[1:], (token, 5))
        for token in ("a.b.c", "a.!.c", "a..c", "a.bm90IEpTT04.c"):
            self.assertEqual(self.read(token)[1:], (token, None))

    def test_answer(self) -> None:
        """
        The answer of a server of OAuth 2 says it too, and is stronger.
        """
        token = web_token({"exp": NOW + 600})
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": 60}
        self.assertEqual(self.read(json.dumps(answer))[1:], (token, 60))
        del answer["expires_in"]
        self.assertEqual(self.read(json.dumps(answer))[1:], (token, 600))

    def test_none(self) -> None:
        """
        What is not a token is told, without repeating it.
        """
        for text, words in (
            ("", "the token is empty"),
            (f"{CANARY} {CANARY}", "the token has white space in it"),
            (f"{{{CANARY}", "the token is neither one word nor JSON"),
            (f'{{"token": "{CANARY}"}}', "the JSON has no access_token"),
            (f'{{"access_token": "{CANARY}", "expires_in": "x"}}', "expires_in is no"),
            (
                f'{{"access_token": "{CANARY}", "expires_in": 0}}',
                "the token has expired",
            ),
            (web_token({"exp": NOW - 1, "sub": CANARY}), "the token has expired"),
        ):
            self.assertIn(words, self.refused(text))

    def test_file(self) -> None:
        """
        A file that is not there, or is no text, is told.
        """
        problem = self.unavailable(file=str(self.path))
        self.assertEqual(
            problem, f"{self.path} cannot be read: No such file or directory"
        )
        self.path.write_bytes(b"\xff\xfe")
        self.assertIn("it is not UTF-8", self.unavailable(file=str(self.path)))

    def test_answers(self) -> None:
        """
        It may return a text, bytes, an answer of a server, or a `Secret`; now, or
        later, or from a thread.
        """
        name = f"{__name__}:give"
        later: Deferred[object] = succeed("third")
        ANSWERS[:] = [
            "first",
            b"second",
            later,
            {"access_token": "fourth", "expires_in": 7},
            Secret("ann", "fifth", 8.0),
        ]
        found = [self.fetched(function=name) for _ in range(5)]
        self.assertEqual(
            found,
            [
                ("guest", "first", None),
                ("guest", "second", None),
                ("guest", "third", None),
                ("guest", "fourth", 7),
                ("ann", "fifth", 8),
            ],
        )
        ANSWERS[:] = ["coroutine", "thread"]
        self.assertEqual(self.fetched(function=f"{name}_later")[1], "coroutine")
        self.assertEqual(self.fetched(function=name, in_thread=True)[1], "thread")
        self.assertEqual(self.threads.ran, 1)

    def test_nothing(self) -> None:
        """
        Anything else is not a token.
        """
        ANSWERS[:] = [None]
        problem = self.unavailable(function=f"{__name__}:give")
        self.assertEqual(problem, "a NoneType is not a token")


class CheckTests(SynchronousTestCase):
    """
    Settings that are wrong.
    """

    def test_sources(self) -> None:
        """
        There has to be one source.
        """
        for settings, words in (
            ({}, "token: has nothing: set one of file, command"),
            ({"file": "a", "function": "b:c"}, "token: has file and function: "),
            (
                {"file": "a", "in_thread": True},
                "token.in_thread: is for token.function",
            ),
        ):
            chosen = TokenSettings(**settings)
            error = self.assertRaises(Problem, check_token, chosen)
            self.assertIn(words, str(error))

    def test_absent(self) -> None:
        """
        It has to be here.
        """
        for settings, kind, words in (
            ({"command": ("no-such-program",)}, Problem, "there is no program 'no-"),
            ({"function": "no"}, Problem, "token.function: 'no' does not have the"),
            ({"function": "no:no"}, HandlerNotFound, "token.function: there is no"),
            ({"function": f"{__name__}:NOW"}, HandlerNotFound, "is not a function"),
        ):
            chosen = TokenSettings(**settings)
            check_token(chosen)
            error = self.assertRaises(kind, find_token, chosen)
            self.assertIn(words, str(error))

    def test_in_a_file(self) -> None:
        """
        They stand in the file of settings, and are checked with the others.
        """
        path = Path(self.mktemp())
        text = '[[consumers]]\nqueue = "q"\nhandler = "m:f"\ndeclare = true\n[token]\n'
        path.write_text(f'{text}command = ["token", "--audience", "rabbit"]')
        settings = load(str(path), {"TXAMQP091_TOKEN_USERNAME": "ann"}, {})
        assert settings.token is not None
        self.assertEqual(settings.token.command, ("token", "--audience", "rabbit"))
        self.assertEqual(settings.token.username, "ann")
        path.write_text(f"{text}file = 'a'\nfunction = 'b:c'")
        error = self.assertRaises(Problem, load, str(path), {}, {})
        self.assertIn(": token: has file and function", str(error))
        path.write_text(f"password_file = 'p'\n{text}file = 'a'")
        error = self.assertRaises(Problem, load, str(path), {}, {})
        self.assertIn(": password_file: there is a token too", str(error))
        path.write_text(f"{text}command = 'no-such-program'")
        settings = load(str(path), {}, {})
        self.assertRaises(Problem, check_parts, settings, None)


class CommandTests(TestCase):
    """
    Programs that print tokens: real ones.
    """

    timeout = 120.0

    def run_it(self, code: str) -> Deferred[Secret]:
        """
        Run a program in Python.
        """
        from twisted.internet import reactor

        threads: Any = Threads()
        settings = TokenSettings(command=(sys.executable, "-c", code))
        return TokenSource(reactor, settings, "guest", threads)()

    async def unavailable(self, code: str) -> str:
        """
        Why there is nothing.
        """
        with self.assertRaises(SecretUnavailable) as caught:
            await self.run_it(code)
        return str(caught.exception)

    async def test_printed(self) -> None:
        """
        What it prints is the token; it is given nothing to read.
        """
        secret = await self.run_it("import sys; print(f'to{sys.stdin.read()}ken')")
        self.assertEqual(secret.password, "token")

    async def test_fails(self) -> None:
        """
        One that does not end well, or printed more than 1048576 bytes, has no token.
        """
        name = sys.executable
        self.assertEqual(
            await self.unavailable(f"print('{CANARY}'); raise SystemExit(3)"),
            f"{name} ended with status 3",
        )
        self.assertEqual(
            await self.unavailable("import os; os.kill(os.getpid(), 9)"),
            f"{name} was killed by signal 9",
        )
        self.assertEqual(
            await self.unavailable("while True: print('x' * 4096)"),
            f"{name} printed more than 1048576 bytes",
        )

    async def test_cancelled(self) -> None:
        """
        One that takes too long is ended.
        """
        path = Path(self.mktemp()).absolute()
        running = self.run_it(
            "import os, time\n"
            f"open({str(path) + '.new'!r}, 'w').write(str(os.getpid()))\n"
            f"os.rename({str(path) + '.new'!r}, {str(path)!r})\n"
            "time.sleep(600)\n"
        )
        from twisted.internet import reactor
        from twisted.internet.task import deferLater

        timers: Any = reactor
        while not path.exists():
            await deferLater(timers, 0.02)
        running.cancel()
        with self.assertRaises(CancelledError):
            await running
        number = int(path.read_text())
        while _lives(number):
            await deferLater(timers, 0.02)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


class DaemonTests(ProcessCase):
    """
    A daemon that logs in by a token, and whose passwords change.
    """

    def setUp(self) -> None:
        super().setUp()
        self.broker.declare_queue("work")

        self.path = Path(self.mktemp()).absolute()
        self.token = Path(self.mktemp()).absolute()
        self.logins = [ConnectionParameters()]

    def daemon(self, text: str = "") -> Daemon:
        """
        A daemon that runs, until the test ends.
        """
        self.path.write_text(
            f'{text}\n[[consumers]]\nqueue = "work"\nhandler = "{__name__}:take"\n'
            "dead_letters = true\n"
        )
        settings = self.load()
        daemon = make_daemon(
            self.clock,
            settings,
            self.logins,
            {"work": take},
            self.load,
            {},
            log_in=self.log_in,
        )
        self.addCleanup(self.stop, daemon)
        daemon.startService()
        self.turn()
        return daemon

    def stop(self, daemon: Daemon) -> None:
        """
        Stop it.
        """
        stopping = daemon.stopService()
        self.passes(40)
        self.successResultOf(stopping)

    def load(self) -> Settings:
        """
        Read the settings.
        """
        return load(str(self.path), {}, {})

    def log_in(self) -> list[ConnectionParameters]:
        """
        Find the broker again.
        """
        if not self.logins:
            raise Problem("password_file", "is empty")
        return self.logins

    def give(self, token: str, accepted: bool = True) -> None:
        """
        Renew the token, and have the broker take it.
        """
        self.token.write_text(json.dumps({"access_token": token, "expires_in": 100}))
        if accepted:
            self.broker.add_user("guest", token)

    def by_token(self, text: str = "") -> Daemon:
        """
        A daemon with a token.
        """
        return self.daemon(f'{text}\n[token]\nfile = "{self.token}"\n')

    def said(self, daemon: Daemon) -> str:
        """
        What a SIGHUP makes it say.
        """
        with capturedLogs() as events:
            daemon.reread()
        [line] = [
            formatEvent(each)
            for each in events
            if each["log_namespace"] == "txamqp091.daemon"
        ]
        return line

    def test_renewed(self) -> None:
        """
        The broker is given what the file has, before the last one expires, and a
        connection asks for its own.
        """
        self.give("token-1")
        daemon = self.by_token()
        self.assertTrue(daemon.health().ready)
        self.give("token-2")
        self.passes(81)
        [session] = self.broker.sessions
        self.assertEqual(session.secret, b"token-2")
        self.give("token-3")
        self.cut()
        self.passes(3)
        self.assertTrue(daemon.health().ready)

    def test_hangup(self) -> None:
        """
        SIGHUP has the broker given the present token at once.
        """
        self.give("token-1")
        daemon = self.by_token()
        self.give("token-2")
        self.assertEqual(
            self.said(daemon),
            "SIGHUP: changed: the token, as soon as a new one is fetched",
        )
        self.turn()
        [session] = self.broker.sessions
        self.assertEqual(session.secret, b"token-2")

    def test_expired(self) -> None:
        """
        A token that nobody renews is told, and the daemon is not ready; it is again as
        soon as there is one.
        """
        self.give("token-1")
        daemon = self.by_token()
        self.token.unlink()
        with capturedLogs() as events:
            self.passes(81)
        self.assertTrue(daemon.health().ready)
        lines = [formatEvent(each) for each in events]
        self.assertTrue(any("cannot be read: No such file" in each for each in lines))
        self.passes(60)
        self.assertEqual(daemon.health().problems, ["the token has expired"])
        self.give("token-2")
        self.passes(31)
        self.assertTrue(daemon.health().ready)

    def test_refused(self) -> None:
        """
        A token that the broker refuses does not end the daemon: the next one may do.
        """
        self.give("token-1", accepted=False)
        daemon = self.by_token()
        self.passes(100)
        self.assertIsInstance(daemon.client.error, AuthenticationFailed)
        self.assertFalse(self.process.hasStopped)
        self.token.unlink()
        self.passes(31)
        self.assertIsInstance(daemon.client.error, ConnectFailed)
        self.assertIn("cannot be read", str(daemon.client.error))
        self.give("token-2")
        self.passes(31)
        self.assertTrue(daemon.health().ready)

    def test_permanent(self) -> None:
        """
        Before the first connection, other permanent reasons end it, as without a
        token.
        """
        self.give("token-1")
        self.logins = [ConnectionParameters(virtual_host="nowhere")]
        daemon = self.by_token()
        self.passes(1)
        self.assertIsInstance(daemon.client.error, VhostAccessRefused)
        self.assertTrue(self.process.hasStopped)
        self.assertEqual(daemon.status, ExitStatus.NO_VHOST)

    def test_scope(self) -> None:
        """
        A token without permission for the virtual host does not end the daemon: the
        next one may have it.
        """
        self.give("token-1")
        self.broker.add_vhost("shop")
        self.broker.clear_permissions("guest", "shop")
        self.logins = [ConnectionParameters(virtual_host="shop")]
        daemon = self.by_token()
        self.passes(60)
        self.assertIsInstance(daemon.client.error, VhostAccessRefused)
        self.assertFalse(self.process.hasStopped)
        [problem] = daemon.health().problems[:1]
        self.assertIn("not connected: 530 ", problem)

    def test_password(self) -> None:
        """
        SIGHUP has the passwords read again: the next connection logs in by them.
        """
        daemon = self.daemon()
        self.assertTrue(daemon.health().ready)
        self.broker.add_user("guest", CANARY)
        new = PlainCredentials("guest", CANARY)
        self.logins = [ConnectionParameters(credentials=[new])]
        said = self.said(daemon)
        self.assertEqual(
            said, "SIGHUP: changed: the login, from the next connection on"
        )
        self.assertEqual(self.said(daemon), "SIGHUP: nothing has changed")
        self.cut()
        self.passes(3)
        self.assertTrue(daemon.health().ready)

    def test_password_of_a_login(self) -> None:
        """
        Each login has the password that is valid then, also without a SIGHUP.
        """
        daemon = self.daemon()
        self.broker.add_user("guest", CANARY)
        self.cut()
        self.passes(3)
        [problem] = daemon.health().problems[:1]
        self.assertTrue(problem.startswith("not connected: 403 ACCESS_REFUSED"))
        self.assertFalse(self.process.hasStopped)
        new = PlainCredentials("guest", CANARY)
        self.logins = [ConnectionParameters(credentials=[new])]
        self.passes(11)
        self.assertTrue(daemon.health().ready)

    def test_user_away(self) -> None:
        """
        A login that is refused is final before the first connection, and only then.
        """
        daemon = self.daemon()
        self.broker.add_user("guest", "another")
        self.cut()
        self.passes(600, 5)
        self.assertFalse(self.process.hasStopped)
        self.broker.add_user("guest", "guest")
        self.passes(11)
        self.assertTrue(daemon.health().ready)
        self.broker.add_user("guest", "another")
        first = self.daemon()
        self.passes(1)
        self.assertTrue(self.process.hasStopped)
        self.assertEqual(first.status, ExitStatus.NO_PERMISSION)

    def test_password_is_wrong(self) -> None:
        """
        What cannot be read changes nothing, and other nodes wait for a restart.
        """
        daemon = self.daemon()
        self.logins = [ConnectionParameters(host="elsewhere")]
        self.assertEqual(
            self.said(daemon),
            "SIGHUP: nothing has changed; these settings need a restart: uri",
        )
        self.logins = []
        self.assertEqual(
            self.said(daemon), "SIGHUP: nothing has changed: password_file: is empty"
        )
        self.cut()
        self.passes(3)
        self.assertTrue(daemon.health().ready)
