# -*- test-case-name: txamqp091.test.scenarios.test_differences -*-
"""
That what is said of the differences between the in-memory broker and RabbitMQ is in the
documentation, and about scenarios that exist.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.test.support.differences import DIFFERENCES, PAGE, page
from txamqp091.test.support.peers import MEMORY_VERSIONS


class DifferencesTests(SynchronousTestCase):
    """
    Tests for `txamqp091.test.support.differences`.
    """

    def test_page(self) -> None:
        """
        The page in the documentation is the one that the differences make.
        """
        if not PAGE.parent.is_dir():
            raise SkipTest("the documentation is not here")
        self.assertEqual(PAGE.read_text(), page())

    def test_scenarios(self) -> None:
        """
        Each difference that names a scenario has one, for each version that it names,
        and no scenario is named twice.
        """
        modules = [
            importlib.import_module(f"txamqp091.test.scenarios.{path.stem}")
            for path in sorted(Path(__file__).parent.glob("test_*.py"))
        ]
        named = [each.scenario for each in DIFFERENCES if each.scenario]
        self.assertEqual(len(named), len(set(named)))
        for each in DIFFERENCES:
            owner, _, test = each.scenario.partition(".")
            for version in each.versions if owner else ():
                name = f"{owner}_memory_{version.replace('.', '_')}"
                found = [getattr(module, name, None) for module in modules]
                self.assertTrue(any(hasattr(case, test) for case in found), each)

    def test_versions(self) -> None:
        """
        The versions are those that the in-memory broker is asked to be like.
        """
        known = {version.rpartition(".")[0] for version in MEMORY_VERSIONS}
        for each in DIFFERENCES:
            self.assertLessEqual(set(each.versions), known)

    def test_count(self) -> None:
        """
        There are at least 150 scenarios for each broker.
        """
        count = 0
        for path in sorted(Path(__file__).parent.glob("test_*.py")):
            if path != Path(__file__):
                count += path.read_text().count("    async def test_")
        self.assertGreaterEqual(count, 150)
