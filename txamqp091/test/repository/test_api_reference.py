# -*- test-case-name: txamqp091.test.repository.test_api_reference -*-
"""
The API reference in ``docs/api``, and the list of errors.
"""

from __future__ import annotations

import inspect
import re

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import txamqp091
from txamqp091 import errors
from txamqp091.test.support.checkout import CHECKOUT

DOCS = CHECKOUT / "docs"


class APIReferenceTests(SynchronousTestCase):
    """
    What the reference lists is there, and it leaves nothing out.
    """

    def setUp(self) -> None:
        if not DOCS.exists():
            raise SkipTest("an installed package has no documents")

    def test_names(self) -> None:
        """
        The classes and functions that only ``txamqp091`` exports have entries.  (The
        pages of the other packages list what the packages export.)
        """
        text = "".join(each.read_text() for each in (DOCS / "api").glob("*.rst"))
        entries = set(re.findall(r"^\.\. [\w:]+:: txamqp091\.(\w+)$", text, re.M))
        for name in txamqp091.__all__:
            value = getattr(txamqp091, name)
            home = getattr(value, "__module__", "")
            elsewhere = home.startswith(("txamqp091.service", "txamqp091.worker"))
            if inspect.isclass(value) or inspect.isfunction(value):
                if not (elsewhere or home == "txamqp091.errors"):
                    self.assertIn(name, entries)

    def test_remedies(self) -> None:
        """
        The page of errors names errors that exist, with a remedy for each that a
        program meets as itself.
        """
        text = (DOCS / "reference" / "errors.rst").read_text()
        entries = text.split(".. autoexception:: ")[1:]
        self.assertGreater(len(entries), 40)
        for entry in entries:
            name = entry.partition("\n")[0].rpartition(".")[2]
            found = getattr(errors, name)
            violation = issubclass(found, errors.RemoteProtocolError)
            if not violation and name not in ("AMQPError", "Closed", "PublishFailed"):
                self.assertIn("**Remedy:**", entry)
