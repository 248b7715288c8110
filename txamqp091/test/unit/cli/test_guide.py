# -*- test-case-name: txamqp091.test.unit.cli.test_guide -*-
"""
The guide to the command line, done: its commands print what it says.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SkipTest

from txamqp091.cli.exit_status import CommandStatus
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.test.support.command_case import CommandCase

GUIDE = CHECKOUT / "docs" / "guides" / "command-line.rst"
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n\n(?P<body>(?:[ ]+.*\n|\n)+)", re.MULTILINE
)


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """
    The commands of a block, each with the lines that it prints.
    """
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *lines = part.rstrip().splitlines()
        yield command, lines


class GuideTests(CommandCase):
    """
    The guide.
    """

    def setUp(self) -> None:
        super().setUp()
        if not GUIDE.exists():
            raise SkipTest("an installed package has no documents")
        self.text = GUIDE.read_text()

    def test_commands(self) -> None:
        """
        Each command prints the lines that follow it.
        """
        path = Path(self.mktemp()).absolute()
        done = 0
        for block in BLOCK.finditer(self.text):
            body = dedent(block["body"])
            if block["language"] == "toml":
                path.write_text(body)
                continue
            for command, lines in steps(body):
                done += 1
                printed = self.printed(command, path)
                self.assertEqual(len(printed), len(lines), (command, printed))
                for line, shown in zip(printed, lines, strict=True):
                    pattern = re.sub(r"([][*?])", r"[\1]", shown).replace("...", "*")
                    self.assertTrue(fnmatchcase(line, pattern), (line, shown))
        self.assertGreater(done, 10)

    def printed(self, command: str, path: Path) -> list[str]:
        """
        What a command prints, with ``echo`` before and ``grep`` after it.
        """
        stdin, found = b"", ""
        parts = [shlex.split(each) for each in command.split(" | ")]
        if parts[0][0] == "echo":
            stdin = f"{parts.pop(0)[1]}\n".encode()
        if len(parts) > 1:
            self.assertEqual(parts[1][0], "grep")
            found = parts[1][1]
        name, *arguments = parts[0]
        self.assertEqual(name, "txamqp091")
        arguments = [str(path) if each == "shop.toml" else each for each in arguments]
        out = self.command(*arguments, stdin=stdin).out
        return [line for line in out.splitlines() if found in line]

    def test_statuses(self) -> None:
        """
        The table of exit statuses is that of the program.
        """
        rows = re.findall(r"^(\d+) +(.+)$", self.text, re.MULTILINE)
        self.assertEqual(
            rows, [(str(each.value), each.meaning) for each in CommandStatus]
        )
