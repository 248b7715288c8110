# -*- test-case-name: txamqp091.test.unit.daemon.test_broker_login -*-
"""
Where the daemon connects, and with which password.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.credentials import PlainCredentials
from txamqp091.daemon.broker_login import Logins, connections, without_frames
from txamqp091.daemon.settings_schema import Problem

CANARY = "canary-password"
NOTHING: Mapping[str, str] = {}


class FrameTests(SynchronousTestCase):
    """
    Errors without frames.
    """

    def test_without_frames(self) -> None:
        """
        An exception keeps its type and text, and loses the frames that have secrets,
        its cause and its context.
        """

        @without_frames
        def fail(secret: str) -> None:
            try:
                raise ValueError(secret)
            except ValueError as error:
                raise KeyError("no such key") from error

        error = self.assertRaises(KeyError, fail, CANARY)
        self.assertEqual(error.args, ("no such key",))
        self.assertIsNone(error.__cause__)
        self.assertIsNone(error.__context__)
        found = traceback.TracebackException.from_exception(error, capture_locals=True)
        own = [each for each in found.stack if "broker_login.py" in each.filename]
        shown = [f"{each.locals}" for each in own if "test_" not in each.filename]
        self.assertEqual(len(shown), 1)
        self.assertNotIn(CANARY, shown[0])


class LoginTests(SynchronousTestCase):
    """
    The strongest place counts.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def write(self, name: str, text: str) -> str:
        """
        Write a file.
        """
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    def find(
        self,
        flags: Mapping[str, str] = NOTHING,
        environ: Mapping[str, str] = NOTHING,
        file: Mapping[str, object] = NOTHING,
    ) -> Logins:
        """
        How to connect.
        """
        return connections(flags, environ, file, str(self.folder), "a daemon")

    def password(self, logins: Logins) -> str:
        """
        The password of the first connection.
        """
        credentials = logins.parameters[0].credentials[0]
        assert isinstance(credentials, PlainCredentials)
        response = credentials.respond(None)
        assert isinstance(response, bytes)
        return response.split(b"\0")[2].decode()

    def test_uri(self) -> None:
        """
        The URI of the strongest place is taken: flags, environment, file, credentials.
        """
        credentials = self.folder / "credentials"
        self.write("credentials/amqp-uri", "amqp://credential\n")
        flags = {"uri": "amqp://flag"}
        environ = {
            "TXAMQP091_URI": "amqp://environ",
            "CREDENTIALS_DIRECTORY": str(credentials),
        }
        file = {"uri": ["amqp://file", "amqp://second"]}
        hosts = [self.find(flags, environ, file).parameters[0].host]
        hosts.append(self.find({}, environ, file).parameters[0].host)
        del environ["TXAMQP091_URI"]
        hosts += [each.host for each in self.find({}, environ, file).parameters]
        hosts.append(self.find({}, environ).parameters[0].host)
        self.assertEqual(hosts, ["flag", "environ", "file", "second", "credential"])

    def test_files(self) -> None:
        """
        URI and password may be in files, whose paths begin at the settings' own, or
        are those of credentials.
        """
        self.write("uri", "amqp://user@host/v")
        self.write("pw", CANARY + "\n")
        logins = self.find(file={"uri_file": "uri", "password_file": "pw"})
        self.assertEqual(self.password(logins), CANARY)
        self.assertEqual(logins.parameters[0].virtual_host, "v")
        self.write("credentials/pw", "other")
        environ = {"CREDENTIALS_DIRECTORY": str(self.folder / "credentials")}
        file = {"uri_file": "uri", "password_file": "pw"}
        self.assertEqual(self.password(self.find(environ=environ, file=file)), "other")
        self.write("credentials/amqp-password", "third")
        del file["password_file"]
        self.assertEqual(self.password(self.find(environ=environ, file=file)), "third")
        environ = {
            "TXAMQP091_URI_FILE": str(self.folder / "uri"),
            "TXAMQP091_PASSWORD_FILE": str(self.folder / "pw"),
        }
        self.assertEqual(self.password(self.find(environ=environ)), CANARY)

    def test_password(self) -> None:
        """
        A password is stronger than one in a URI of a weaker place, or of the same; but
        not than one in a URI of a stronger place.
        """
        file = {"uri": ["amqp://u:in-uri@host"]}
        environ = {"TXAMQP091_PASSWORD": "environ"}
        self.assertEqual(self.password(self.find(file=file)), "in-uri")
        self.assertEqual(self.password(self.find({}, environ, file)), "environ")
        environ["TXAMQP091_URI"] = "amqp://u:in-variable@host"
        self.assertEqual(self.password(self.find({}, environ, file)), "environ")
        logins = self.find({"uri": "amqp://u:in-flag@host"}, environ, file)
        self.assertEqual(self.password(logins), "in-flag")
        self.assertTrue(logins.password_in_argv)
        self.assertFalse(self.find({"uri": "amqp://u@host"}, environ).password_in_argv)

    def test_name(self) -> None:
        """
        The connection has a name, unless the URI gives it one.
        """
        self.assertEqual(self.find({"uri": "amqp://h"}).parameters[0].name, "a daemon")

    def test_problems(self) -> None:
        """
        What is wrong is named, with the place, and without a password.
        """
        path = self.write("pw", CANARY)
        empty = self.write("empty", "\n")
        secret = f"amqp://u:{CANARY}@host"
        for arguments, words in (
            (({}, {}, {}), "--uri is missing, and TXAMQP091_URI is not set"),
            (({"uri": "http://a"},), "--uri: "),
            (({}, {"TXAMQP091_URI": "amqp://h:x"}), "TXAMQP091_URI: "),
            (({}, {}, {"uri": [secret], "password_file": "pw"}), "password_file"),
            (({"uri": secret, "password_file": path},), "--password-file"),
            (
                ({}, {}, {"uri": [secret], "uri_file": "pw"}),
                "uri is given too",
            ),
            (({}, {}, {"uri_file": "none"}), "uri_file: "),
            (({"uri": "amqp://h", "password_file": empty},), "is empty"),
            (
                ({"uri": "amqps://h?auth_mechanism=EXTERNAL", "password_file": path},),
                "takes no password",
            ),
        ):
            problem = self.assertRaises(Problem, self.find, *arguments)
            self.assertIn(words, str(problem))
            self.assertNotIn(CANARY, str(problem))
            text = traceback.TracebackException.from_exception(
                problem, capture_locals=True
            )
            shown = [
                f"{frame.locals}"
                for frame in text.stack
                if frame.filename.endswith("/daemon/broker_login.py")
            ]
            self.assertTrue(shown)
            self.assertNotIn(CANARY, "".join(shown))
