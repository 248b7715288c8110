# -*- test-case-name: txamqp091.test.unit.daemon.test_tap -*-
"""
The command line of the daemon: what it means, and how it says what is wrong with it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.credentials import (
    AMQPlainCredentials,
    ExternalCredentials,
    PlainCredentials,
)
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.logs import set_threshold
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.settings import LogThreshold
from txamqp091.daemon.settings_schema import Problem
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.tap import Options, makeService
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.worker.consumer_service import ConsumerService

CANARY = "canary-password"


def take(delivery: Delivery) -> None:
    """
    A handler.
    """


class TapCase(SynchronousTestCase):
    """
    A command line, with what is needed on it.
    """

    def setUp(self) -> None:
        self.stderr = StringIO()
        self.patch(sys, "stderr", self.stderr)
        self.patch(sys, "path", list(sys.path))

    def parse(self, *arguments: str, **environ: str) -> Options:
        """
        Parse what is needed, and these arguments.
        """
        needed = ["--queue=work", "--declare", "--handler", f"{__name__}:take"]
        if not {"--uri", "TXAMQP091_URI"} & {*arguments, *environ}:
            needed += ["--uri", "amqp://broker"]
        return self.parse_only(*needed, *arguments, environ=environ)

    def parse_only(self, *arguments: str, environ: Mapping[str, str] = {}) -> Options:  # noqa: B006
        """
        Parse these arguments.
        """
        options = Options(environ)
        options.parseOptions(arguments)
        self.assertNotIn(CANARY, repr(options))
        self.assertNotIn(CANARY, repr(vars(options)))
        self.assertNotIn(CANARY, str(options))
        return options

    def problem(self, status: ExitStatus, *arguments: str, **environ: str) -> str:
        """
        The one line that is said about what is wrong.
        """
        ended = self.assertRaises(SystemExit, self.parse, *arguments, **environ)
        self.assertEqual(ended.code, status)
        self.assertIs(type(ended.code), int)
        return self.line()

    def line(self) -> str:
        """
        What stands on stderr.
        """
        text = self.stderr.getvalue()
        self.stderr.truncate(0)
        self.stderr.seek(0)
        self.assertEqual(text.count("\n"), 1, text)
        self.assertTrue(text.startswith("amqp-consumer: "), text)
        self.assertNotIn(CANARY, text)
        return text.removeprefix("amqp-consumer: ").rstrip("\n")

    def parameters(self, options: Options) -> ConnectionParameters:
        """
        The one connection's.
        """
        [parameters] = options.logins.parameters
        return parameters

    def password_file(self, content: bytes) -> str:
        """
        A new file.
        """
        path = Path(self.mktemp()).absolute()
        path.write_bytes(content)
        return str(path)


class OptionsTests(TapCase):
    """
    What the options mean.
    """

    def test_least(self) -> None:
        """
        The queue, the handler, the URI and --declare are enough.
        """
        options = self.parse()
        self.assertEqual(options.handlers, {"work": take})
        parameters = self.parameters(options)
        self.assertEqual(parameters.host, "broker")
        self.assertEqual(parameters.name, "amqp-consumer work")
        [consumer] = options.settings.consumers
        self.assertEqual((consumer.prefetch, consumer.declare), (100, True))
        self.assertEqual(options.settings.shutdown_timeout, 30)

    def test_all(self) -> None:
        """
        Each option has its effect.
        """
        options = self.parse(
            "--uri", "amqps://user@broker:1234/shop?name=me&heartbeat=5",
            "--prefetch", "0", "--shutdown-timeout=1.5", "--declare",
        )  # fmt: skip
        parameters = self.parameters(options)
        self.assertEqual((parameters.port, parameters.virtual_host), (1234, "shop"))
        self.assertEqual((parameters.name, parameters.heartbeat), ("me", 5))
        [consumer] = options.settings.consumers
        self.assertEqual((consumer.prefetch, consumer.declare), (0, True))
        self.assertEqual(options.settings.shutdown_timeout, 1.5)

    def test_uri_of_environment(self) -> None:
        """
        The URI may be in the environment; the command line is stronger.
        """
        options = self.parse(TXAMQP091_URI="amqp://elsewhere")
        self.assertEqual(self.parameters(options).host, "elsewhere")
        options = self.parse("--uri", "amqp://here", TXAMQP091_URI="amqp://elsewhere")
        self.assertEqual(self.parameters(options).host, "here")

    def test_current_folder(self) -> None:
        """
        The handler may be in the current folder, which the ``twistd`` command does
        not look into; nothing that is installed is shadowed by that.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        name = f"txamqp091_tap_{os.getpid()}"
        (folder / f"{name}.py").write_text("def take(delivery): pass")
        (folder / "json.py").write_text("raise RuntimeError")
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)
        self.parse("--handler", f"{name}:take")
        self.parse("--handler", "json:loads")
        self.assertEqual(sys.path[-1], os.getcwd())
        del sys.modules[name]

    def test_pid_file(self) -> None:
        """
        In the foreground, twistd writes no pid file, unless its command line names
        one.
        """
        self.patch(logging.root, "handlers", [logging.NullHandler()])
        for given, written in (
            ({"nodaemon": True, "pidfile": "twistd.pid"}, ""),
            ({"nodaemon": True, "pidfile": "own.pid"}, "own.pid"),
            ({"nodaemon": False, "pidfile": "twistd.pid"}, "twistd.pid"),
            ({"nodaemon": True}, None),
        ):
            runner: Any = dict(given)
            options = Options({"TXAMQP091_URI": "amqp://h"})
            options.parent = runner
            options.parseOptions(
                ["--queue=q", "--declare", f"--handler={__name__}:take"]
            )
            self.assertEqual(runner.get("pidfile"), written)

    def test_help(self) -> None:
        """
        ``--help`` has the exit statuses, and nothing of the environment.
        """
        self.patch(os, "environ", {"TXAMQP091_URI": f"amqp://u:{CANARY}@h"})
        text = str(Options())
        self.assertNotIn(CANARY, text)
        for each in ExitStatus:
            self.assertIn(f"{each:5}  {each.meaning}\n", text)

    def test_documented(self) -> None:
        """
        The documentation has the same options and statuses.
        """
        document = CHECKOUT / "docs" / "guides" / "daemon.rst"
        if not document.exists():
            raise SkipTest("an installed package has no documents")
        text = document.read_text()
        rows = re.findall(r"^(\d+) +(.+)$", text, re.MULTILINE)
        self.assertEqual(rows, [(str(int(each)), each.meaning) for each in ExitStatus])
        options = {*Options().longOpt} - {"help", "version"}
        for option in options:
            self.assertIn(f"``--{option.rstrip('=')}``", text)


class PasswordTests(TapCase):
    """
    Where the password comes from, and that it stays there.
    """

    def assert_password(self, options: Options, password: str = CANARY) -> None:
        """
        This is what the broker would get.
        """
        [credentials] = self.parameters(options).credentials
        self.assertEqual(credentials, PlainCredentials("user", password))

    def test_command_line(self) -> None:
        """
        In the URI it is taken, and known to be where everybody sees it.
        """
        options = self.parse("--uri", f"amqp://user:{CANARY}@broker")
        self.assert_password(options)
        self.assertTrue(options.logins.password_in_argv)

    def test_environment(self) -> None:
        """
        It may be in a variable of its own, or in the URI's; the former is stronger.
        """
        uri = f"amqp://user:{CANARY}@broker"
        self.assert_password(self.parse(TXAMQP091_URI=uri))
        without = self.parse("--uri", "amqp://user@broker", TXAMQP091_PASSWORD=CANARY)
        self.assert_password(without)
        both = self.parse(TXAMQP091_URI=uri, TXAMQP091_PASSWORD="other")
        self.assert_password(both, "other")
        empty = self.parse(TXAMQP091_URI=uri, TXAMQP091_PASSWORD="")
        self.assert_password(empty)
        for options in (without, both, empty):
            self.assertFalse(options.logins.password_in_argv)

    def test_file(self) -> None:
        """
        It may be in a file, whose last line end is not a part of it.
        """
        for end in ("", "\n", "\r\n"):
            path = self.password_file((CANARY + end).encode())
            options = self.parse("--uri", "amqp://user@broker", "--password-file", path)
            self.assert_password(options)
        path = self.password_file(" p\u00e4ss \n\n".encode())
        options = self.parse("--uri", "amqp://user@broker", "--password-file", path)
        self.assert_password(options, " p\u00e4ss \n")

    def test_flag_over_environment(self) -> None:
        """
        What is on the command line is stronger than the environment.
        """
        path = self.password_file(CANARY.encode())
        self.assert_password(
            self.parse(
                "--password-file",
                path,
                TXAMQP091_URI="amqp://user:other@broker",
                TXAMQP091_PASSWORD="another",
            )
        )
        self.assert_password(
            self.parse(
                "--uri", f"amqp://user:{CANARY}@broker", TXAMQP091_PASSWORD="other"
            )
        )

    def test_twice(self) -> None:
        """
        Two passwords on the command line are one too many.
        """
        problem = self.problem(
            ExitStatus.CONFIG,
            "--uri",
            f"amqp://user:{CANARY}@broker",
            "--password-file",
            self.password_file(b"other"),
        )
        self.assertEqual(
            problem, "--uri: has a password, and there is --password-file too"
        )

    def test_default_user(self) -> None:
        """
        Without a user, it is the password of RabbitMQ's own.
        """
        options = self.parse(TXAMQP091_PASSWORD=CANARY)
        self.assertEqual(
            self.parameters(options).credentials, (PlainCredentials("guest", CANARY),)
        )

    def test_mechanisms(self) -> None:
        """
        Every mechanism that takes a password gets it, and one has to.
        """
        uri = "amqps://user@broker?auth_mechanism="
        both = f"{uri}external&auth_mechanism=amqplain"
        options = self.parse("--uri", both, TXAMQP091_PASSWORD=CANARY)
        first, second = self.parameters(options).credentials
        self.assertIsInstance(first, ExternalCredentials)
        self.assertEqual(second, AMQPlainCredentials("user", CANARY))
        problem = self.problem(
            ExitStatus.CONFIG, "--uri", f"{uri}external", TXAMQP091_PASSWORD=CANARY
        )
        self.assertEqual(
            problem, "TXAMQP091_PASSWORD: the URI's auth_mechanism takes no password"
        )

    def test_bad_files(self) -> None:
        """
        A file that has no password is named, with the reason.
        """
        for path, reason in {
            "/nowhere/at/all": "cannot be read: No such file or directory",
            "/": "cannot be read: Is a directory",
            self.password_file(b"\n"): "is empty",
            self.password_file(b"\xff"): "cannot be read: it is not UTF-8",
        }.items():
            problem = self.problem(ExitStatus.CONFIG, "--password-file", path)
            self.assertEqual(problem, f"--password-file: {path} {reason}")
        path = self.password_file(f"{CANARY}\0".encode())
        problem = self.problem(ExitStatus.CONFIG, "--password-file", path)
        self.assertIn("NUL", problem)


class ProblemTests(TapCase):
    """
    What is wrong is told in one line, and by the status.
    """

    def test_missing(self) -> None:
        """
        The first option that is missing is named.
        """
        arguments = ["--uri=amqp://broker", "--queue=work", "--handler=a:b"]
        arguments.append("--declare")
        for missing in ("uri", "queue", "handler"):
            given = [each for each in arguments if missing not in each]
            self.assertRaises(SystemExit, self.parse_only, *given)
            self.assertTrue(self.line().startswith(f"--{missing} is missing"))

    def test_unknown(self) -> None:
        """
        What is no option is told, and what is left over.
        """
        usage = ExitStatus.USAGE
        self.assertIn("--retry not recognized", self.problem(usage, "--retry"))
        self.assertIn("--prefetch requires", self.problem(usage, "--prefetch"))
        self.assertIn("Wrong number", self.problem(usage, "left-over"))

    def test_numbers(self) -> None:
        """
        Numbers are numbers, in their limits.
        """
        for text in ("x", "-1", "1.5", "65536", "1e3", "\u0663", "", "9" * 5000):
            problem = self.problem(ExitStatus.USAGE, "--prefetch", text)
            self.assertIn("--prefetch: is ", problem)
        for text in ("x", "-1", "inf", "nan", ""):
            problem = self.problem(ExitStatus.USAGE, "--shutdown-timeout", text)
            self.assertIn("--shutdown-timeout: is ", problem)

    def test_uri(self) -> None:
        """
        A URI that cannot be understood is told, with where it stands, and it is not
        quoted.
        """
        for uri in (f"amqp://u:{CANARY}/@h", f"{CANARY}", f"amqp://u:{CANARY}@h:x"):
            problem = self.problem(ExitStatus.CONFIG, "--uri", uri)
            self.assertTrue(problem.startswith("--uri: "), problem)
            problem = self.problem(ExitStatus.CONFIG, TXAMQP091_URI=uri)
            self.assertTrue(problem.startswith("TXAMQP091_URI: "), problem)

    def test_handler(self) -> None:
        """
        A name that is no name is the command line's fault; a handler that is not
        there has a status of its own.
        """
        problem = self.problem(ExitStatus.USAGE, "--handler", "take")
        self.assertIn("'take' does not have the form", problem)
        for name in ("nowhere_at_all:take", f"{__name__}:give"):
            problem = self.problem(ExitStatus.NO_HANDLER, "--handler", name)
            self.assertTrue(problem.startswith("--handler: "), problem)


class FileTests(TapCase):
    """
    What is in a file.
    """

    def config(self, more: str = "", handler: str = f"{__name__}:take") -> str:
        """
        A file with one consumer.
        """
        path = Path(self.mktemp()).absolute()
        path.write_text(
            f'uri = "amqp://user:{CANARY}@file"\n{more}\n'
            f'[[consumers]]\nqueue = "orders"\nhandler = "{handler}"\n'
            "declare = true\n"
        )
        return str(path)

    def refused(self, status: ExitStatus, *arguments: str, **environ: str) -> str:
        """
        The one line that is said about what is wrong.
        """
        ended = self.assertRaises(
            SystemExit, self.parse_only, *arguments, environ=environ
        )
        self.assertEqual(ended.code, status)
        return self.line()

    def test_file(self) -> None:
        """
        The file says it all; flags and variables are stronger.
        """
        path = self.config("shutdown_timeout = 5")
        options = self.parse_only("--config", path)
        self.assertEqual(self.parameters(options).host, "file")
        self.assertEqual(options.settings.shutdown_timeout, 5)
        options = self.parse_only(
            "--prefetch=3",
            "--log-level=warn",
            environ={
                "TXAMQP091_CONFIG": path,
                "TXAMQP091_URI": "amqp://other",
                "TXAMQP091_THREAD": "3",
            },
        )
        self.assertEqual(self.parameters(options).host, "other")
        self.assertEqual(options.settings.consumers[0].prefetch, 3)
        self.assertEqual(
            options.unknown, ["TXAMQP091_THREAD (did you mean TXAMQP091_THREADS?)"]
        )
        set_threshold(LogThreshold.INFO)

    def test_wrong(self) -> None:
        """
        What is wrong is told with the file and the key, or with the flag.
        """
        for more, words in (
            ("prefech = 3", ": prefech: there is no such setting"),
            ("admin = 'tcp:'", ": admin: is not an endpoint"),
            ("metrics = true", ": metrics: is true, and admin"),
            (
                "password_file = '/nowhere'",
                ": uri: has a password, and there",
            ),
        ):
            path = self.config(more)
            problem = self.refused(ExitStatus.CONFIG, "--config", path)
            self.assertIn(words, problem)
        problem = self.refused(ExitStatus.NO_HANDLER, "-c", self.config("", "no:no"))
        self.assertIn(": consumers[0].handler: there is no module no", problem)
        problem = self.refused(ExitStatus.CONFIG, "-c", self.config("", "no"))
        self.assertIn(": consumers[0].handler: 'no' does not have", problem)
        path = self.config()
        problem = self.refused(ExitStatus.USAGE, "-c", path, "--queue=q")
        self.assertEqual(problem, "--queue is for use without --config")
        self.refused(ExitStatus.USAGE, "-c", path, "--prefetch=x")
        problem = self.refused(ExitStatus.CONFIG, "-c", path, TXAMQP091_THREADS="x")
        self.assertTrue(problem.startswith("TXAMQP091_THREADS: is 'x'"), problem)
        problem = self.refused(ExitStatus.CONFIG, "-c", "/nowhere.toml")
        self.assertIn("/nowhere.toml: cannot be read", problem)

    def test_check(self) -> None:
        """
        ``--check`` says what would be done, and ends.
        """
        stdout = StringIO()
        self.patch(sys, "stdout", stdout)
        ended = self.assertRaises(
            SystemExit, self.parse_only, "--check", "-c", self.config()
        )
        self.assertEqual(ended.code, 0)
        self.assertIn(
            "orders: orders -> txamqp091.test.unit.daemon.test_tap:take",
            stdout.getvalue(),
        )
        self.assertNotIn(CANARY, stdout.getvalue())
        self.refused(ExitStatus.CONFIG, "--check", "-c", self.config("x = 1"))

    def test_read_again(self) -> None:
        """
        The file can be read again, without the secrets.
        """
        path = self.config()
        options = self.parse_only("-c", path, "--prefetch=3")
        Path(path).write_text(Path(path).read_text().replace("orders", "more"))
        self.assertEqual(options.load().consumers[0].queue, "more")
        self.assertEqual(options.load().consumers[0].prefetch, 3)
        self.assertNotIn(CANARY, repr(options.load().uri))

    def test_log_in_again(self) -> None:
        """
        So can the passwords, wherever they may have changed: those of files, and not
        that of the command line.
        """
        path = self.config()
        options = self.parse_only("-c", path)
        Path(path).write_text(Path(path).read_text().replace(CANARY, "new"))
        [found] = options.log_in()
        self.assertEqual(list(found.credentials), [PlainCredentials("user", "new")])
        Path(path).write_text(Path(path).read_text().replace("uri = ", "# "))
        self.assertRaises(Problem, options.log_in)
        password = self.password_file(b"old\n")
        options = self.parse("--uri", "amqp://me@broker", "--password-file", password)
        Path(password).write_text("new")
        [found] = options.log_in()
        self.assertEqual(list(found.credentials), [PlainCredentials("me", "new")])
        options = self.parse("--uri", f"amqp://me:{CANARY}@broker")
        self.assertEqual(options.log_in(), options.logins.parameters)

    def test_token(self) -> None:
        """
        The token's file is where the other files are, and the function is found as
        handlers are.
        """
        path = self.config("[token]\nfile = 'token'")
        options = self.parse_only("-c", path)
        folder = Path(path).parent
        assert options.settings.token is not None
        self.assertEqual(options.settings.token.file, str(folder / "token"))
        assert (again := options.load().token) is not None
        self.assertEqual(again, options.settings.token)
        path = self.config("[token]\nfunction = 'nowhere:token'")
        problem = self.refused(ExitStatus.NO_HANDLER, "-c", path)
        self.assertIn("token.function: there is no module nowhere", problem)
        path = self.config("[token]\ncommand = 'no-such-program'")
        problem = self.refused(ExitStatus.CONFIG, "-c", path)
        self.assertIn(f"{path}: token.command: there is no program", problem)


class MakeServiceTests(TapCase):
    """
    From the options to the service.
    """

    def test_service(self) -> None:
        """
        It is a daemon with one consumer, and nothing has been started.
        """
        daemon = makeService(self.parse())
        self.assertIsInstance(daemon, Daemon)
        [consumer] = daemon.consumers
        self.assertIsInstance(consumer, ConsumerService)
        self.assertFalse(daemon.running or consumer.running or daemon.client.running)

    def test_warning(self) -> None:
        """
        A password on the command line is warned of, and not repeated.
        """
        with capturedLogs() as events:
            makeService(self.parse("--uri", f"amqp://user:{CANARY}@broker"))
            makeService(self.parse(TXAMQP091_PASSWORD=CANARY))
        [event] = events
        self.assertIn("TXAMQP091_PASSWORD", formatEvent(event))
        self.assertNotIn(CANARY, repr(event))
