# -*- test-case-name: txamqp091.test.unit.daemon.test_tokens -*-
"""
Tokens of a daemon: `TokenSource` fetches one from a file, a command or a function, and
finds out how long it is valid.

No error and no log shows a token.
"""

from __future__ import annotations

__all__ = ["TokenSettings", "TokenSource", "check_token", "find_token"]

import base64
import binascii
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from txamqp091._threads import ThreadRunner
from txamqp091.daemon.handler_loading import HandlerNotFound, load_object
from txamqp091.daemon.settings_schema import Problem, setting
from txamqp091.service import Secret, SecretUnavailable

#: The longest output of a command, in bytes.
_MOST = 1 << 20

_SOURCES = ("file", "command", "function")


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """
    ``[token]``
    """

    file: str = setting(
        "File with the token, which another program renews; the path is as with "
        "``uri_file``.",
        "",
    )
    command: tuple[str, ...] = setting(
        "Program that prints the token, and its arguments.  There is no shell.", ()
    )
    function: str = setting(
        "Function that returns the token, as ``package.module:function``.  It has no "
        "parameters, and may return a Deferred or be a coroutine function.",
        "",
    )
    in_thread: bool = setting("Call the function in a thread, as it blocks.", False)
    username: str = setting(
        "User name for the token; by default the URI's.  RabbitMQ's OAuth 2 plugin "
        "ignores it.",
        "",
    )
    lifetime: float = setting(
        "Seconds for which a token is valid, if it does not say so itself; 0 means "
        "for ever.",
        0.0,
        least=0,
        most=31_536_000,
    )
    fraction: float = setting(
        "Part of a token's lifetime after which the daemon gives the broker the next "
        "one.",
        0.8,
        least=0.01,
        most=1,
    )


def check_token(settings: TokenSettings) -> None:
    """
    Check that the settings name one source.

    :raises Problem: they do not.
    """
    given = [each for each in _SOURCES if getattr(settings, each)]
    if len(given) != 1:
        text = " and ".join(given) if given else "nothing"
        raise Problem("token", f"has {text}: set one of {', '.join(_SOURCES)}")
    if settings.in_thread and not settings.function:
        raise Problem("token.in_thread", "is for token.function")


def find_token(settings: TokenSettings) -> None:
    """
    Check that the source exists.

    :raises Problem: the command does not exist, or the function's name is malformed.
    :raises HandlerNotFound: the function does not exist.
    """
    if settings.command and shutil.which(settings.command[0]) is None:
        raise Problem("token.command", f"there is no program {settings.command[0]!r}")
    if settings.function:
        _load(settings.function)


def _load(name: str) -> Callable[[], object]:
    """
    The function that returns tokens.

    :raises Problem: its name is malformed.
    :raises HandlerNotFound: it does not exist.
    """
    try:
        found = load_object(name)
    except ValueError as error:
        raise Problem("token.function", str(error)) from None
    except HandlerNotFound as error:
        raise HandlerNotFound(f"token.function: {error}") from None
    if not callable(found):
        raise HandlerNotFound(f"token.function: {name} is not a function")
    return found


class TokenSource:
    """
    A callable that fetches a token, for `txamqp091.service.ExpiringCredentials`.
    """

    def __init__(
        self,
        reactor: Any,
        settings: TokenSettings,
        username: str,
        threads: ThreadRunner,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        :param reactor: a reactor with processes, if there is a command.
        :param username: the user name, unless the settings name one.
        :param threads: runs a function that blocks.
        :param now: returns the time in seconds since the epoch.
        """
        self._reactor = reactor
        self._settings = settings
        self._username = settings.username or username
        self._threads = threads
        self._now = now
        self._function: Callable[[], object] | None = None
        if settings.function:
            self._function = _load(settings.function)

    def __call__(self) -> Deferred[Secret]:
        """
        Fetch a token.

        :returns: fires with it; fails with `SecretUnavailable`, or with the exception
            of the function.  Cancelling it ends the command, or cancels the function's
            own Deferred.
        """
        fetched = maybeDeferred(cast("Callable[[], Deferred[Any]]", self._fetch))
        return fetched.addCallback(self._secret)

    def _fetch(self) -> object:
        settings = self._settings
        if self._function is not None and settings.in_thread:
            function = self._function
            return self._threads.run(lambda _: function(), None)
        if self._function is not None:
            return self._function()
        if settings.command:
            return _run(self._reactor, settings.command)
        return _read(settings.file)

    def _secret(self, found: object) -> Secret:
        if isinstance(found, Secret):
            return found
        if isinstance(found, bytes):
            found = found.decode("utf-8", "replace")
        if isinstance(found, Mapping):
            token, lifetime = _parts(found)
        elif isinstance(found, str):
            token, lifetime = _understood(found)
        else:
            raise SecretUnavailable(f"a {type(found).__name__} is not a token")
        if len(token.split()) != 1:
            raise SecretUnavailable(
                "the token has white space in it" if token else "the token is empty"
            )
        if lifetime is None:
            expiry = _expiry(token)
            if expiry is not None:
                lifetime = expiry - self._now()
            elif self._settings.lifetime:
                lifetime = self._settings.lifetime
        if lifetime is not None and lifetime <= 0:
            raise SecretUnavailable("the token has expired")
        return Secret(self._username, token, lifetime)


# -- the content of tokens ------------------------------------------------------------


def _understood(text: str) -> tuple[str, float | None]:
    """
    The token in a text, and its lifetime if the text has one: the text is the token
    alone, or the JSON answer of an OAuth 2 server (RFC 6749, section 5.1).
    """
    text = text.strip()
    if not text.startswith("{"):
        return text, None
    try:
        found = json.loads(text)
    except ValueError:
        raise SecretUnavailable("the token is neither one word nor JSON") from None
    return _parts(found)


def _parts(found: Mapping[Any, Any]) -> tuple[str, float | None]:
    token, lifetime = found.get("access_token"), found.get("expires_in")
    if not isinstance(token, str):
        raise SecretUnavailable("the JSON has no access_token")
    try:
        return token, None if lifetime is None else float(lifetime)
    except (TypeError, ValueError):
        raise SecretUnavailable("expires_in is not a number") from None


def _expiry(token: str) -> float | None:
    """
    The expiry of a JSON Web Token (RFC 7519), in seconds since the epoch; None if the
    text is not one, or has no expiry.  The broker checks the signature.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.b64decode(padded, b"-_", validate=True))
        expiry = claims.get("exp")
    except (binascii.Error, ValueError, AttributeError):
        return None
    is_number = isinstance(expiry, int | float) and not isinstance(expiry, bool)
    return float(expiry) if is_number else None


# -- the sources ------------------------------------------------------------------


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(_MOST)
    except OSError as error:
        raise SecretUnavailable(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretUnavailable(f"{path} cannot be read: it is not UTF-8") from None


def _run(reactor: IReactorProcess, command: Sequence[str]) -> Deferred[bytes]:
    """
    Run a program.

    :returns: fires with its output; fails with `SecretUnavailable` if the program
        cannot be run, or fails.
    """
    running = _Command(command[0])
    try:
        # Its stderr is ours.
        reactor.spawnProcess(
            running,
            command[0],
            list(command),
            env=None,
            childFDs={0: "w", 1: "r", 2: 2},
        )
    except OSError as error:
        running.fail(f"{command[0]} cannot be run: {error.strerror}")
    return running.printed


class _Command(ProcessProtocol):
    """
    A program that prints a token.

    :ivar printed: fires with its output.
    """

    transport: IProcessTransport | None = None

    def __init__(self, name: str) -> None:
        self.printed: Deferred[bytes] = Deferred(lambda _: self._end())
        self._name = name
        self._output = bytearray()

    def connectionMade(self) -> None:
        """
        Twisted: the program runs.
        """
        assert self.transport is not None
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        """
        Twisted: the program has printed something.
        """
        if len(self._output) <= _MOST:
            self._output += data
        else:
            self._end()

    def _end(self) -> None:
        if self.transport is not None:
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                pass

    def fail(self, problem: str) -> None:
        """
        Fail with a reason.
        """
        if not self.printed.called:
            self.printed.errback(SecretUnavailable(problem))

    def processEnded(self, reason: Failure) -> None:
        """
        Twisted: the program has ended.
        """
        end: Any = reason.value
        if len(self._output) > _MOST:
            self.fail(f"{self._name} printed more than {_MOST} bytes")
        elif end.signal:
            self.fail(f"{self._name} was killed by signal {end.signal}")
        elif end.exitCode:
            self.fail(f"{self._name} ended with status {end.exitCode}")
        elif not self.printed.called:
            self.printed.callback(bytes(self._output))
