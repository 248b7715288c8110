# -*- test-case-name: txamqp091.test.repository.test_readme -*-
"""
What the README and the guides show, done.

Each Python block is run as it stands, as a program of its own, and has to end well; one
that has a test case is run by trial.  If a text block follows it at once, that is what
the program prints.  Blocks of one document run in order, against one broker, whose
address they find in ``AMQP_URI``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.test.support.installations import known_brokers
from txamqp091.test.support.integration import RabbitTestCase

# A directive, an empty line, and all that is indented or empty below it.
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n\n(?P<body>(?:[ ]+.*\n|\n)+)", re.MULTILINE
)


@dataclass(frozen=True)
class Program:
    """
    A Python block of a document.

    :ivar line: the line that it begins at, counted from 1.
    :ivar output: what it has to print, or `None` if that is not said.
    """

    source: str
    line: int
    output: str | None

    @property
    def is_test(self) -> bool:
        """
        Whether it is one for trial.
        """
        return "TestCase)" in self.source


def programs(text: str) -> Iterator[Program]:
    """
    The Python blocks of a document.
    """
    blocks = list(BLOCK.finditer(text))
    for block, after in zip_longest(blocks, blocks[1:]):
        if block["language"] != "python":
            continue
        output = None
        if after and after["language"] == "text" and after.start() == block.end():
            output = dedent(after["body"]).strip()
        line = text.count("\n", 0, block.start("body")) + 1
        yield Program(dedent(block["body"]), line, output)


def documents() -> list[Path]:
    """
    The documents of a checkout that show programs.
    """
    built = CHECKOUT / "docs" / "_build"
    pages = sorted((CHECKOUT / "docs").rglob("*.rst"))
    pages = [each for each in pages if built not in each.parents]
    return [CHECKOUT / "README.rst", *pages]


def write_programs(folder: str, *names: str) -> None:
    """
    Write the programs of some documents into a folder, each into a file of its own, for
    those who check types.
    """
    for name in names:
        path = CHECKOUT / name
        for program in programs(path.read_text()):
            file = Path(folder, f"{path.stem.lower()}_{program.line}.py")
            file.write_text("\n" * (program.line - 1) + program.source)


class DocumentTests(RabbitTestCase):
    """
    The documents show what works.
    """

    # Any will do: that all of them behave alike is tested elsewhere.
    broker = next(known_brokers())

    def run_program(self, document: Path, program: Program) -> None:
        """
        Run a block, and fail with the document's line if it does.
        """
        folder = Path(tempfile.mkdtemp(prefix="txamqp091-"))
        self.addCleanup(shutil.rmtree, folder)
        # Not by the name of the document, which may be that of a module.
        script = folder / f"program_of_{document.stem}.py".replace("-", "_")
        # The lines above it are left empty: a traceback has the document's lines.
        script.write_text("\n" * (program.line - 1) + program.source)
        runner = ["-m", "twisted.trial"] if program.is_test else []
        done = subprocess.run(
            [sys.executable, *runner, str(script)],
            cwd=folder,
            env={**os.environ, "AMQP_URI": self.uri, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        place = f"{document.name}, line {program.line}"
        said = f"{place}:\n{done.stdout}{done.stderr}"
        self.assertEqual(done.returncode, 0, said)
        self.assertEqual(done.stderr, "", place)
        if program.is_test:
            self.assertIn("PASSED (successes=1)", done.stdout, place)
        if program.output is not None:
            self.assertEqual(done.stdout.strip(), program.output, place)

    def test_programs(self) -> None:
        """
        Every Python block ends well, and prints what the document says it does.
        """
        if not documents()[0].exists():
            raise SkipTest("an installed package has no documents")
        for document in documents():
            for program in programs(document.read_text()):
                self.run_program(document, program)


class ReadingTests(SynchronousTestCase):
    """
    The programs are found.
    """

    def test_programs(self) -> None:
        """
        A block ends where the indentation does, knows its line, and owns the text
        block that follows it at once.
        """
        text = dedent(
            """\
            Title
            =====

            .. code-block:: python

                print(1)

                print(2)

            .. code-block:: text

                1
                2

            Prose.

            .. code-block:: python

                pass

            Prose.

            .. code-block:: text

                not of the block above
            """
        )
        self.assertEqual(
            list(programs(text)),
            [
                Program("print(1)\n\nprint(2)\n\n", 6, "1\n2"),
                Program("pass\n\n", 19, None),
            ],
        )

    def test_readme(self) -> None:
        """
        The README has programs: two print something, one is a test, and one is a
        handler.
        """
        if not documents()[0].exists():
            raise SkipTest("an installed package has no documents")
        outputs = [each.output for each in programs(documents()[0].read_text())]
        self.assertEqual(
            outputs,
            [
                "RabbitMQ has the message",
                "hello\ngiven back to the queue: 0",
                None,
                None,
            ],
        )


if __name__ == "__main__":
    write_programs(*sys.argv[1:])
