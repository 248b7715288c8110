# -*- test-case-name: txamqp091.test.unit.cli.test_command_line -*-
"""
The command line as a process.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.testing.memory import MemoryBroker


class _Process(ProcessProtocol):
    """
    A process whose output is kept.

    :ivar line: fires when stdout has a line.
    :ivar ended: fires with the exit status.
    """

    def __init__(self, stdin: bytes | None) -> None:
        self.out = b""
        self.err = b""
        self.line: Deferred[None] = Deferred()
        self.ended: Deferred[int] = Deferred()
        self._stdin = stdin

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if self._stdin is not None:
            transport.write(self._stdin)
            transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.out += data
        if b"\n" in self.out and not self.line.called:
            self.line.callback(None)

    def errReceived(self, data: bytes) -> None:
        self.err += data

    def processEnded(self, reason: Failure) -> None:
        error = reason.value
        assert isinstance(error, ProcessDone | ProcessTerminated)
        self.ended.callback(-1 if error.exitCode is None else error.exitCode)


class ProcessTests(TestCase):
    """
    ``python -m txamqp091``, and a broker in this process.
    """

    timeout = 180.0

    def setUp(self) -> None:
        """
        Have a broker that listens.
        """
        from twisted.internet import reactor

        if find_spec("click") is None:
            raise SkipTest("the command line needs click")
        self.reactor: Any = reactor
        self.broker = MemoryBroker(reactor)
        port = self.broker.listen(reactor)
        self.addCleanup(self.broker.clear)
        self.addCleanup(self.broker.close_connections)
        self.addCleanup(port.stopListening)
        self.uri = f"amqp://guest@127.0.0.1:{port.getHost().port}"
        self.broker.declare_queue("orders")

    def spawn(self, *arguments: str, stdin: bytes | None = b"") -> _Process:
        """
        Start a command.
        """
        process = _Process(stdin)
        self.reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-m", "txamqp091", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "TXAMQP091_URI": self.uri,
                "TXAMQP091_PASSWORD": "guest",
            },
        )
        return process

    async def test_pipe(self) -> None:
        """
        Bodies come from a pipe, and results go to one.
        """
        process = self.spawn("publish", "orders", "--lines", stdin=b"1\n2\n")
        self.assertEqual(await process.ended, 0, process.err)
        self.assertEqual(process.out, b"published: 2\n")
        self.assertEqual(self.broker.queue("orders").bodies, [b"1", b"2"])
        process = self.spawn("get", "orders", "-n", "5", "--body")
        self.assertEqual(await process.ended, 0, process.err)
        self.assertEqual((process.out, process.err), (b"1\n2\n", b""))

    async def test_interrupt(self) -> None:
        """
        SIGINT, as Ctrl-C sends it, ends a command in order.
        """
        process = self.spawn("consume", "orders", "--body")
        self.broker.publish("", "orders", b"x")
        await process.line
        transport: Any = process.transport
        transport.signalProcess("INT")
        self.assertEqual(await process.ended, 0, process.err)
        self.assertEqual(process.err, b"")
        self.assertQueueEmpty()

    async def test_interrupt_while_reading(self) -> None:
        """
        SIGINT ends a command that waits for stdin.
        """
        process = self.spawn("publish", "orders", "--lines", stdin=None)
        transport: Any = process.transport
        transport.write(b"1\n")
        queue = self.broker.queue("orders")
        while not queue.ready:
            await _turn(self.reactor)
        transport.signalProcess("INT")
        self.assertEqual(await process.ended, 130, process.err)

    async def test_errors(self) -> None:
        """
        An error is a line on stderr and a status.
        """
        process = self.spawn("get", "no-queue")
        self.assertEqual(await process.ended, 66)
        self.assertTrue(process.err.startswith(b"txamqp091: 404 NOT_FOUND"))
        process = self.spawn("nonsense")
        self.assertEqual(await process.ended, 64)
        self.assertIn(b"nonsense", process.err)

    async def test_without_click(self) -> None:
        """
        Without click, a line says what to install.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "click.py").write_text("raise ModuleNotFoundError('click')")
        process = _Process(b"")
        self.reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-m", "txamqp091", "ping"],
            env={**os.environ, "PYTHONPATH": f"{folder}:{CHECKOUT}"},
        )
        self.assertEqual(await process.ended, 72)
        self.assertEqual(
            process.err,
            b"txamqp091: the command line needs the package click: "
            b"pip install 'txamqp091[cli]'\n",
        )

    async def test_completion(self) -> None:
        """
        click writes the script for a shell's completion.
        """
        process = _Process(b"")
        self.reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-m", "txamqp091"],
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "_TXAMQP091_COMPLETE": "zsh_source",
            },
        )
        self.assertEqual(await process.ended, 0, process.err)
        self.assertIn(b"#compdef txamqp091", process.out)

    def assertQueueEmpty(self) -> None:
        queue = self.broker.queue("orders")
        self.assertEqual((queue.ready, queue.unacked), (0, 0))


def _turn(reactor: Any) -> Deferred[None]:
    """
    Wait for a moment.
    """
    waiting: Deferred[None] = Deferred()
    reactor.callLater(0.05, waiting.callback, None)
    return waiting
