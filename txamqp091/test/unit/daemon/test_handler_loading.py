# -*- test-case-name: txamqp091.test.unit.daemon.test_handler_loading -*-
"""
Handlers, found by their names.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.daemon.handler_loading import HandlerNotFound, load_handler
from txamqp091.message import Delivery


class Shop:
    """
    Things that a name can lead to.
    """

    def take(self, delivery: Delivery) -> None:
        """
        A method, for a handler.
        """


def take(delivery: Delivery) -> None:
    """
    A handler.
    """


def none() -> None:
    """
    A function that takes no delivery.
    """


def generator(delivery: Delivery) -> Generator[Any, Any, None]:
    """
    A function that lacks ``inlineCallbacks``.
    """
    yield


async def async_generator(delivery: Delivery) -> AsyncIterator[None]:
    """
    A coroutine function with a ``yield`` too much.
    """
    yield


@inlineCallbacks
def inline(delivery: Delivery) -> Generator[Any, Any, None]:
    """
    A handler with ``inlineCallbacks``.
    """
    yield


shop = Shop()
HERE = __name__


class LoadTests(SynchronousTestCase):
    """
    From a name to a handler.
    """

    def problem(self, name: str) -> str:
        """
        What is said about a name that leads to no handler.
        """
        text = str(self.assertRaises(HandlerNotFound, load_handler, name))
        self.assertNotIn("\n", text)
        return text

    def module(self, source: str) -> str:
        """
        The name of a new module with this text.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        name = f"txamqp091_{folder.parent.name}_{folder.name}".replace(".", "_")
        name = "".join(each for each in name if each.isalnum() or each == "_")
        (folder / f"{name}.py").write_text(source)
        self.patch(sys, "path", [*sys.path, str(folder)])
        self.addCleanup(sys.modules.pop, name, None)
        return name

    def test_found(self) -> None:
        """
        A function, a method of an object and a builtin are handlers.
        """
        self.assertIs(load_handler(f"{HERE}:take"), take)
        self.assertEqual(load_handler(f"{HERE}:shop.take"), shop.take)
        self.assertIs(load_handler(f"{HERE}:inline"), inline)
        self.assertIs(load_handler("builtins:print"), print)

    def test_form(self) -> None:
        """
        A name without a colon, or that Python would not take, is said to be none.
        """
        for name in ("", ":", "a", "a.b", "a:", ":b", "a:b:c", "a b:c", "a/b:c", ".:b"):
            self.assertRaises(ValueError, load_handler, name)

    def test_no_module(self) -> None:
        """
        The part of the name is told that is not there.
        """
        self.assertIn("no module nowhere_at_all,", self.problem("nowhere_at_all:take"))
        self.assertIn("txamqp091.nowhere,", self.problem("txamqp091.nowhere.at:all"))

    def test_no_function(self) -> None:
        """
        The module is told, with its file.
        """
        problem = self.problem(f"{HERE}:give")
        self.assertIn(f"{HERE} has no give (", problem)
        self.assertIn("test_handler_loading.py", problem)
        self.assertIn("has no shop.give", self.problem(f"{HERE}:shop.give"))

    def test_broken_module(self) -> None:
        """
        A module that fails is told, with the error and its place, in one line.
        """
        for source, words in {
            "import nowhere_at_all": "No module named 'nowhere_at_all'",
            "x = 1\nraise ValueError('a\\nb')": "ValueError: a",
            "def f(:": "SyntaxError",
            "import sys\nsys.exit(3)": "it raises SystemExit(3)",
        }.items():
            name = self.module(source)
            problem = self.problem(f"{name}:take")
            self.assertIn(f"the module {name} cannot be imported", problem)
            self.assertIn(words, problem)
            if "sys" not in source:
                self.assertIn(f"{name}.py, line {source.count(chr(10)) + 1}", problem)

    def test_unfit(self) -> None:
        """
        What would take no message, or do nothing with it, is refused.
        """
        for name, words in {
            "HERE": "is a str, not a function",
            "Shop": "is a class",
            "none": "cannot be called with a delivery",
            "generator": "is a generator function",
            "async_generator": "is a generator function",
        }.items():
            self.assertIn(words, self.problem(f"{HERE}:{name}"))
