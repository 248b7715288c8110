# -*- test-case-name: txamqp091.test.unit.testing.test_tap -*-
"""
``twistd -n amqp-broker``: its command line, and the process that it is.
"""

from __future__ import annotations

import re
import signal
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txamqp091.endpoint import connect
from txamqp091.errors import AuthenticationFailed, ConnectionForced
from txamqp091.test.support.daemons import DaemonProcess
from txamqp091.testing.tap import BrokerService, Options, _make_service, makeService

HERE = "tcp:0:interface=127.0.0.1"


class OptionsTests(SynchronousTestCase):
    """
    Tests for the command line.
    """

    def parse(self, *arguments: str) -> Options:
        """
        Parse it.
        """
        options = Options()
        options.parseOptions(arguments)
        return options

    def problem(self, *arguments: str) -> object:
        """
        What it ends with.
        """
        return self.assertRaises(SystemExit, self.parse, *arguments).code

    def test_defaults(self) -> None:
        """
        Without any options, it is what clients look for when they are told nothing.
        """
        options = self.parse()
        self.assertEqual(options["listen"], ["tcp:5672:interface=127.0.0.1"])
        self.assertEqual(options["vhost"], ["/"])
        self.assertEqual(options.users, {})
        self.assertEqual(options["rabbitmq-version"], "4.3.6")

    def test_all(self) -> None:
        """
        Users, virtual hosts and ports can be several.
        """
        options = self.parse(
            *("--listen", HERE, "--listen", "unix:/tmp/x"),
            *("--user", "a:b:c", "--user", "d:", "--vhost", "one", "--vhost", "two"),
            *("--rabbitmq-version", "3.10"),
        )
        self.assertEqual(options["listen"], [HERE, "unix:/tmp/x"])
        self.assertEqual(options.users, {"a": "b:c", "d": ""})
        self.assertEqual(options["vhost"], ["one", "two"])
        self.assertNotIn("b:c", repr(options))

    def test_user_file(self) -> None:
        """
        Users can come from a file, so that the command line has no passwords.
        """
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("a:b:c\n\nd:\n")
        options = self.parse("--user-file", path, "--user", "e:f")
        self.assertEqual(options.users, {"a": "b:c", "d": "", "e": "f"})
        with open(path, "wb") as data:
            data.write(b"a:b\nsecret\n")
        self.assertEqual(
            self.problem("--user-file", path),
            f"amqp-broker: --user-file {path}: line 2 is not NAME:PASSWORD",
        )
        with open(path, "wb") as data:
            data.write(b"a:\xff\n")
        self.assertEqual(
            self.problem("--user-file", path),
            f"amqp-broker: --user-file {path}: it is not UTF-8",
        )
        self.assertEqual(
            self.problem("--user-file", f"{path}.no"),
            f"amqp-broker: --user-file {path}.no: No such file or directory",
        )

    def test_pid_file(self) -> None:
        """
        In the foreground, twistd writes no pid file, unless its command line names
        one.
        """
        for given, written in (
            ({"nodaemon": True, "pidfile": "twistd.pid"}, ""),
            ({"nodaemon": True, "pidfile": "own.pid"}, "own.pid"),
            ({"nodaemon": False, "pidfile": "twistd.pid"}, "twistd.pid"),
        ):
            runner: Any = dict(given)
            options = Options()
            options.parent = runner
            options.parseOptions([])
            self.assertEqual(runner["pidfile"], written)

    def test_service(self) -> None:
        """
        The service has the broker that the options describe.
        """
        arguments = ["--user", "a:b", "--vhost", "one", "--rabbitmq-version", "3.10.8"]
        service = _make_service(self.parse(*arguments), Clock())
        self.assertEqual(service.broker.version, "3.10.8")
        self.assertEqual(service.broker.queues("one"), [])
        self.assertEqual(service.broker.authenticate("PLAIN", b"\0a\0b").name, "a")

    def test_problems(self) -> None:
        """
        What is wrong is said in a line.
        """
        self.assertEqual(
            self.problem("--user", "guest"), "amqp-broker: --user is NAME:PASSWORD"
        )
        self.assertEqual(
            self.problem("--rabbitmq-version", "new"),
            "amqp-broker: --rabbitmq-version: 'new' is no version of RabbitMQ",
        )
        self.assertEqual(
            self.problem("what"), "amqp-broker: Wrong number of arguments."
        )
        options = self.parse("--listen", "nonsense:1")
        ended = self.assertRaises(SystemExit, makeService, options)
        self.assertIn("amqp-broker: --listen nonsense:1: ", str(ended.code))


class ServiceTests(TestCase):
    """
    Tests for the service, in this process.
    """

    def start(self) -> tuple[BrokerService, int]:
        """
        Start one.

        :returns: it, and its port.
        """
        self.patch(signal, "signal", lambda number, handler: None)
        options = Options()
        options.parseOptions(["--listen", HERE])
        service = makeService(options)
        service.startService()
        address: Any = service._ports[0].getHost()
        return service, address.port

    async def test_stop(self) -> None:
        """
        When it stops, its clients are told why, and it waits for them to go.
        """
        from twisted.internet import reactor

        service, port = self.start()
        connection = await connect(reactor, f"amqp://guest:guest@127.0.0.1:{port}")
        closed = connection.when_closed()
        await service.stopService()
        error = self.failureResultOf(closed, ConnectionForced).value
        self.assertEqual(
            str(error),
            "320 CONNECTION_FORCED - broker forced connection closure with reason "
            "'shutdown'",
        )
        self.assertEqual(service._factory.protocols, set())

    async def test_stop_idle(self) -> None:
        """
        Without clients, it stops at once.
        """
        service, _ = self.start()
        await service.stopService()

    async def test_port_taken(self) -> None:
        """
        If somebody else has its port, it ends the process, with a line.
        """
        service, port = self.start()
        self.addCleanup(service.stopService)
        options = Options()
        options.parseOptions(["--listen", f"tcp:{port}:interface=127.0.0.1"])
        ended = self.assertRaises(SystemExit, makeService(options).startService)
        self.assertIn(f"amqp-broker: Couldn't listen on 127.0.0.1:{port}", ended.code)


class ProcessTests(TestCase):
    """
    Tests for the process.
    """

    timeout = 180.0

    async def start(self, *arguments: str, **options: Any) -> tuple[DaemonProcess, int]:
        """
        Start one, and wait until it listens.

        :returns: it, and its port.
        """
        process = DaemonProcess(
            "--listen", HERE, *arguments, command="amqp-broker", **options
        )
        self.addCleanup(process.end)
        await process.when_said("Listening on")
        (said,) = process.said("Listening on")
        match = re.fullmatch(r"Listening on 127\.0\.0\.1 port (\d+)", said)
        assert match is not None, said
        return process, int(match[1])

    async def test_serves(self) -> None:
        """
        It says that it keeps nothing, a client publishes and gets, and SIGTERM ends it
        with 0, whoever is connected.
        """
        from twisted.internet import reactor

        process, port = await self.start("--user", "me:secret", "--vhost", "mine")
        (said,) = process.said("A broker in memory")
        self.assertEqual(
            said,
            "A broker in memory, like RabbitMQ 4.3.6.  It keeps nothing: all queues "
            "and messages are gone when it ends.",
        )
        refused: Deferred[Any] = connect(reactor, f"amqp://127.0.0.1:{port}/mine")
        await self.assertFailure(refused, AuthenticationFailed)
        uri = f"amqp://me:secret@127.0.0.1:{port}/mine"
        connection = await connect(reactor, uri)
        channel = await connection.open_channel()
        await channel.confirm_select()
        await channel.queue_declare("q")
        await channel.basic_publish("", "q", b"body")
        delivery = await channel.basic_get("q")
        assert delivery is not None
        self.assertEqual(delivery.body, b"body")
        closed = connection.when_closed()
        self.assertEqual(await process.terminate(), 0)
        await self.assertFailure(closed, ConnectionForced)
        self.assertNotIn("secret", process.output + process.errors)

    async def test_interrupt(self) -> None:
        """
        So does an interrupt, also under ``twist``.
        """
        process, _ = await self.start(runner="twist")
        process.signal(signal.SIGINT)
        self.assertEqual(await process.when_ended(), 0)
