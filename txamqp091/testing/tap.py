# -*- test-case-name: txamqp091.test.unit.testing.test_tap -*-
"""
The command line of ``twistd amqp-broker``: the in-memory broker, for whoever has no
other at hand.
"""

from __future__ import annotations

__all__ = ["BrokerService", "Options", "makeService"]

import contextlib
import signal
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from txamqp091.testing._broker.behaviour import DEFAULT_VERSION, Behaviour
from txamqp091.testing._broker.protocol import BrokerFactory
from txamqp091.testing.memory import MemoryBroker

DEFAULT_LISTEN = "tcp:5672:interface=127.0.0.1"

#: How long clients have to take leave, in seconds.
_PATIENCE = 3.0


class Options(usage.Options):
    """
    The options.

    :ivar users: passwords by name.
    """

    synopsis = "[options]"
    longdesc = (
        "Runs an AMQP broker that answers as RabbitMQ and keeps everything in memory: "
        "for tests and first tries.  All is gone when it ends, what was declared as "
        "durable too.  Every user may do everything."
    )

    optParameters: ClassVar[list[list[object]]] = [
        ["rabbitmq-version", None, DEFAULT_VERSION, "The RabbitMQ to be like."],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.users: dict[str, str] = {}
        self["listen"] = []
        self["vhost"] = []

    def opt_listen(self, endpoint: str) -> None:
        """
        Where to listen, as an endpoint of Twisted; may be repeated.  [default:
        tcp:5672:interface=127.0.0.1]
        """
        self["listen"].append(endpoint)

    def opt_user(self, user: str) -> None:
        """
        A user, as NAME:PASSWORD; may be repeated.  [default: guest:guest]
        """
        self._add_user(user, "--user is NAME:PASSWORD")

    def opt_user_file(self, path: str) -> None:
        """
        A file of users, one NAME:PASSWORD a line; other users of the machine see the
        command line, and so the passwords of --user.
        """
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError as error:
            raise usage.UsageError(f"--user-file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise usage.UsageError(f"--user-file {path}: it is not UTF-8") from None
        for number, line in enumerate(lines, 1):
            if line:
                problem = f"--user-file {path}: line {number} is not NAME:PASSWORD"
                self._add_user(line, problem)

    def _add_user(self, user: str, problem: str) -> None:
        name, colon, password = user.partition(":")
        if not (name and colon):
            raise usage.UsageError(problem)
        self.users[name] = password

    def opt_vhost(self, name: str) -> None:
        """
        A virtual host; may be repeated.  [default: /]
        """
        self["vhost"].append(name)

    def parseArgs(self) -> None:
        """
        Twisted: there are no arguments but options.
        """

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Twisted: understand the command line, or end with a line that says what is
        wrong with it.
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            raise _end(str(error)) from None

    def postOptions(self) -> None:
        """
        Twisted: check what was parsed.
        """
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        self["vhost"] = self["vhost"] or ["/"]
        try:
            Behaviour.of(self["rabbitmq-version"])
        except ValueError as error:
            raise usage.UsageError(f"--rabbitmq-version: {error}") from None
        runner = self.parent
        if runner is not None and runner.get("nodaemon"):
            # A file that a killed container left behind has the PID of its next start.
            if runner.get("pidfile") == "twistd.pid":
                runner["pidfile"] = ""


def _end(problem: str) -> SystemExit:
    """
    What ends the process with a line on stderr, and the status 1.
    """
    return SystemExit(f"amqp-broker: {problem}")


class BrokerService(Service):
    """
    A broker that listens.

    :ivar broker: the broker.
    """

    _log = Logger(namespace="txamqp091.testing")

    def __init__(
        self, reactor: Any, broker: MemoryBroker, endpoints: list[IStreamServerEndpoint]
    ) -> None:
        """
        :param endpoints: where it listens.
        """
        self.broker = broker
        self._reactor = reactor
        self._factory = BrokerFactory(broker, reactor)
        self._endpoints = endpoints
        self._ports: list[IListeningPort] = []

    def startService(self) -> None:
        """
        Twisted: listen, or end the process.
        """
        super().startService()  # type: ignore[no-untyped-call]
        self._log.info(
            "A broker in memory, like RabbitMQ {version}.  It keeps nothing: all "
            "queues and messages are gone when it ends.",
            version=self.broker.version,
        )
        failures: list[Failure] = []
        for endpoint in self._endpoints:
            listening = endpoint.listen(self._factory)
            listening.addCallbacks(self._ports.append, failures.append)
        if failures:
            raise _end(failures[0].getErrorMessage())
        # When it runs: the reactor's own handlers would come later, and stay.
        self._reactor.callWhenRunning(self._runs)

    def _runs(self) -> None:
        self._take_signals()
        for port in self._ports:
            address: Any = port.getHost()
            if isinstance(address, IPv4Address | IPv6Address):
                address = f"{address.host} port {address.port}"
            self._log.info("Listening on {address}", address=address)

    def stopService(self) -> Deferred[None]:
        """
        Twisted: listen no more, and close every connection.

        :returns: fires when they have gone, or have been dropped.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        ports, self._ports = self._ports, []
        stopping = [maybeDeferred(port.stopListening) for port in ports]
        self._factory.close_connections()
        gone = self._factory.when_idle()
        gone.addTimeout(_PATIENCE, self._reactor)
        gone.addErrback(lambda failure: failure.trap(TimeoutError))
        done: Deferred[Any] = DeferredList([*stopping, gone], consumeErrors=True)
        return done.addCallback(lambda results: None)

    def _take_signals(self) -> None:
        # After a SIGTERM, twistd would die of it, however orderly the end was.
        with contextlib.suppress(ValueError):  # this is not the main thread
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        # Here anything may be in the middle of anything.
        self._reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # it stops already
            self._reactor.stop()


def makeService(options: Options) -> BrokerService:
    """
    Twisted: the service that the options describe.
    """
    from twisted.internet import reactor

    return _make_service(options, reactor)


def _make_service(options: Options, reactor: Any) -> BrokerService:
    broker = MemoryBroker(
        reactor,
        version=options["rabbitmq-version"],
        users=options.users or None,
        vhosts=tuple(options["vhost"]),
    )
    endpoints = []
    for description in options["listen"]:
        try:
            endpoints.append(serverFromString(reactor, description))
        except (ValueError, TypeError) as error:
            raise _end(f"--listen {description}: {error}") from None
    return BrokerService(reactor, broker, endpoints)
