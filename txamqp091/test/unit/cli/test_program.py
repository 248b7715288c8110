# -*- test-case-name: txamqp091.test.unit.cli.test_program -*-
"""
How commands log in, and what they end with.
"""

from __future__ import annotations

from pathlib import Path

from txamqp091.cli.exit_status import CommandStatus
from txamqp091.test.support.command_case import CommandCase


class LoginTests(CommandCase):
    """
    Where commands log in, and as whom.
    """

    def setUp(self) -> None:
        super().setUp()
        self.broker.add_user("orders", "secret")

    def write(self, text: str) -> str:
        """
        Write a file, and return its path.
        """
        path = Path(self.mktemp()).absolute()
        path.write_text(text)
        return str(path)

    def user(self, *arguments: str, environ: dict[str, str] | None = None) -> str:
        """
        The user of a command that succeeds.
        """
        started = self.command("ping", "--json", *arguments, environ=environ)
        self.assertNotIn("secret", started.out + started.err)
        [record] = started.records
        display: str = record["broker"]
        return display.partition("://")[2].partition("@")[0]

    def test_password(self) -> None:
        """
        The password is in a file, in the environment, or in the settings' file.
        """
        password = self.write("secret\n")
        uri = "amqp://orders@localhost"
        environ = {"TXAMQP091_PASSWORD": "secret"}
        self.assertEqual(self.user("--uri", uri, "--password-file", password), "orders")
        self.assertEqual(self.user("--uri", uri, environ=environ), "orders")
        config = self.write(f'uri = "{uri}"\npassword_file = "{password}"\n')
        self.assertEqual(self.user("--config", config), "orders")
        self.assertEqual(self.user(environ={"TXAMQP091_CONFIG": config}), "orders")

    def test_password_on_the_command_line(self) -> None:
        """
        A password on the command line works, with a warning.
        """
        started = self.command("ping", "--uri", "amqp://orders:secret@localhost")
        self.assertIn("is on the command line", started.err)
        self.assertNotIn("secret", started.out + started.err)

    def test_endpoint(self) -> None:
        """
        An endpoint connects, and the URI says who logs in.
        """
        started = self.command(
            "ping", "--endpoint", "tcp:elsewhere:1", "--uri", "amqp://nobody@localhost",
            environ={"TXAMQP091_PASSWORD": "secret"}, status=77,
        )  # fmt: skip
        self.assertIn("ACCESS_REFUSED", started.err)
        self.assertEqual(self.user("--endpoint", "tcp:elsewhere:1"), "guest")

    def test_token(self) -> None:
        """
        A token is read from a file, also when an endpoint connects.
        """
        token = self.write("secret\n")
        for more in ((), ("--endpoint", "tcp:elsewhere:1")):
            arguments = ("--uri", "amqp://orders@localhost", "--token-file", token)
            self.assertEqual(self.user(*arguments, *more), "orders")
        started = self.command("ping", "--token-file", "/nonexistent", status=78)
        self.assertIn("/nonexistent", started.err)

    def test_wrong_settings(self) -> None:
        """
        What is wrong with the settings is told in a line.
        """
        for arguments in (
            ("--uri", "http://localhost"),
            ("--password-file", "/nonexistent"),
            ("--config", "/nonexistent"),
            ("--endpoint", "nowhere"),
            ("--endpoint", "tcp:h:1", "--srv", "example.org"),
        ):
            started = self.command("ping", *arguments, status=78)
            self.assertEqual(len(started.err.splitlines()), 1, started.err)


class StatusTests(CommandCase):
    """
    Exit statuses.
    """

    def test_no_broker(self) -> None:
        """
        Without a broker, or with the wrong password or virtual host.
        """
        for uri, status in (
            ("amqp://guest:wrong@localhost", 77),
            ("amqp://localhost/nowhere", 68),
        ):
            self.command("ping", "--uri", uri, status=status)
        self.endpoint.refusing = True
        started = self.begin("ping")
        self.advance(60)
        self.assertEqual(self.successResultOf(started.status), 69)

    def test_interrupted(self) -> None:
        """
        Ctrl-C during the work, here while the broker takes no messages.
        """
        self.broker.declare_queue("orders")
        self.broker.block()
        started = self.begin("publish", "orders", "x")
        self.assertNoResult(started.status)
        started.status.cancel()
        self.flush()
        self.assertEqual(self.successResultOf(started.status), 130)

    def test_interrupted_while_connecting(self) -> None:
        """
        Ctrl-C before there is a connection.
        """
        self.endpoint.delay = 1.0
        started = self.begin("ping")
        started.status.cancel()
        self.flush()
        self.assertEqual(self.successResultOf(started.status), 130)
        self.advance(10)

    def test_numbers(self) -> None:
        """
        Where the daemon has the number, it means the same class of errors.
        """
        self.assertEqual(CommandStatus.DIFFERENT, 65)
        self.assertEqual(CommandStatus.CONFIG, 78)

    def test_help(self) -> None:
        """
        Each command has help.
        """
        for arguments in ((), ("dead",), ("dead", "replay"), ("publish",)):
            self.command(*arguments, "--help")
