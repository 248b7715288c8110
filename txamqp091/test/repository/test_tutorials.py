# -*- test-case-name: txamqp091.test.repository.test_tutorials -*-
"""
The tutorials, done: the commands of each page run in the order of the page, in one
folder with the page's programs, and print what the page says.

A command that ends with ``^C`` on the page runs in a terminal of its own until the last
command of the page has ended and its own output is complete; then it gets a Ctrl-C.
``...`` on the page stands for any text.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.test.support.integration import RabbitTestCase, every_broker
from txamqp091.testing import MemoryBroker

PAGES = CHECKOUT / "docs" / "tutorials"
PROGRAMS = CHECKOUT / "docs" / "examples" / "tutorials"

#: How many seconds a command may be silent.
GUARD = 120.0

BLOCK = re.compile(
    r"^\.\. code-block:: console\n\n(?P<body>(?:[ ]+.*\n|\n)+)", re.MULTILINE
)


@dataclass(frozen=True)
class Command:
    """
    A command of a page.

    :ivar output: what it prints, before a Ctrl-C.
    :ivar after: what it prints after the Ctrl-C, or `None` if it ends by itself.
    """

    line: str
    output: str
    after: str | None = None


def commands(text: str) -> Iterator[Command]:
    """
    The commands of a page.
    """
    for block in BLOCK.finditer(text):
        for each in re.split(r"^\$ ", dedent(block["body"]).strip(), flags=re.M)[1:]:
            line, _, output = each.partition("\n")
            output, stopped, after = f"{output.rstrip()}\n".partition("^C\n")
            if output.strip():
                output = output.rstrip("\n") + "\n"
            else:
                output = ""
            yield Command(line, output, after if stopped else None)


def pattern(output: str) -> str:
    """
    A regular expression for an output.
    """
    return r"[\s\S]*".join(re.escape(each) for each in output.split("..."))


class Terminal(ProcessProtocol):
    """
    A command that runs.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.said = ""
        self.complaints = ""
        self.ended: Deferred[int | None] = Deferred()
        self._expected: list[tuple[re.Pattern[str], Deferred[None]]] = []

    def start(self, reactor: Any, folder: str, uri: str) -> None:
        """
        Start it.
        """
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {
            **os.environ,
            "AMQP_URI": uri,
            "TXAMQP091_URI": uri,
            "PATH": path,
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONUNBUFFERED": "1",
        }
        shell = ["/bin/sh", "-c", f"exec {self.command.line}"]
        reactor.spawnProcess(self, shell[0], shell, env=environment, path=folder)

    async def until(self, reactor: Any, expected: str) -> None:
        """
        Wait until the output begins as expected; fail if the command ends before.
        """
        found: Deferred[None] = Deferred()
        self._expected.append((re.compile(pattern(expected)), found))
        self._look()
        try:
            await found.addTimeout(GUARD, reactor)
        except TimeoutError:
            raise self._silent(expected) from None

    def signal(self, name: str) -> None:
        """
        Send it a signal, if it runs.
        """
        transport: Any = self.transport
        if transport.pid:
            transport.signalProcess(name)

    def outReceived(self, data: bytes) -> None:
        self.said += data.decode(errors="replace")
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.complaints += data.decode(errors="replace")

    def processEnded(self, reason: Failure) -> None:
        waiting, self._expected = self._expected, []
        for expected, found in waiting:
            found.errback(self._silent(expected.pattern))
        status: Any = reason.value
        self.ended.callback(status.exitCode)

    def _silent(self, expected: str) -> AssertionError:
        text = f"{self.command.line!r} has not printed {expected!r}:"
        return AssertionError(f"{text}\n{self.said}{self.complaints}")

    def _look(self) -> None:
        for each in [one for one in self._expected if one[0].match(self.said)]:
            self._expected.remove(each)
            each[1].callback(None)


class TutorialTestCase(TestCase):
    """
    The pages, whatever the broker.
    """

    timeout = 480.0

    async def follow(self, page: str, uri: str) -> None:
        """
        Do what a page says.
        """
        from twisted.internet import reactor

        path = PAGES / f"{page}.rst"
        folder = tempfile.mkdtemp(prefix="txamqp091-")
        self.addCleanup(shutil.rmtree, folder)
        shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
        running: list[Terminal] = []
        for command in commands(path.read_text()):
            terminal = Terminal(command)
            terminal.start(reactor, folder, uri)
            self.addCleanup(self.stop, terminal)
            if command.after is None:
                await self.check(terminal)
            else:
                running.append(terminal)
                await terminal.until(reactor, command.output.partition("\n")[0])
        for terminal in running:
            await terminal.until(reactor, terminal.command.output)
            terminal.signal("INT")
            await self.check(terminal)

    async def stop(self, terminal: Terminal) -> None:
        """
        Leave no process.
        """
        terminal.signal("KILL")
        if not terminal.ended.called:
            await terminal.ended

    async def check(self, terminal: Terminal) -> None:
        """
        Wait for the end of a command, and compare its output with the page.
        """
        status = await terminal.ended
        command = terminal.command
        self.assertEqual(status, 0, command.line + terminal.said + terminal.complaints)
        expected = pattern(command.output + (command.after or ""))
        said = terminal.said
        if "trial" in command.line:  # the only one that reports on stderr
            said += terminal.complaints
        else:
            self.assertEqual(terminal.complaints, "", command.line)
        self.assertRegex(said, f"^{expected}\\s*$", command.line)


def pages() -> list[str]:
    """
    The pages with commands.
    """
    found = [path.stem for path in sorted(PAGES.glob("*.rst"))]
    return [each for each in found if [*commands((PAGES / f"{each}.rst").read_text())]]


class MemoryTutorialTests(TutorialTestCase):
    """
    The tutorials, with the in-memory broker.
    """

    async def test_pages(self) -> None:
        """
        Every page does what it says.
        """
        from twisted.internet import reactor

        if not PAGES.exists():
            raise SkipTest("an installed package has no documents")
        self.assertGreaterEqual(len(pages()), 9)
        for page in pages():
            broker = MemoryBroker(reactor)
            port: Any = broker.listen(reactor)
            uri = f"amqp://guest:guest@127.0.0.1:{port.getHost().port}"
            try:
                await self.follow(page, uri)
            finally:
                await port.stopListening()


@every_broker
class RabbitTutorialTests(TutorialTestCase, RabbitTestCase):
    """
    The tutorials, with RabbitMQ.
    """

    async def test_pages(self) -> None:
        """
        RPC and the daemon do on RabbitMQ what the pages say.
        """
        if not PAGES.exists():
            raise SkipTest("an installed package has no documents")
        for page in ("rpc", "first-daemon"):
            await self.follow(page, self.uri)


class ReadingTests(SynchronousTestCase):
    """
    The commands are found.
    """

    def test_commands(self) -> None:
        """
        A command ends where the next one, or the block, does.
        """
        text = dedent(
            """\
            .. code-block:: console

                $ wait
                ready
                got ... it
                ^C
                bye

            Prose.

            .. code-block:: console

                $ one
                1
                $ two

            Prose.
            """
        )
        self.assertEqual(
            [*commands(text)],
            [
                Command("wait", "ready\ngot ... it\n", "bye\n"),
                Command("one", "1\n"),
                Command("two", ""),
            ],
        )
