# -*- test-case-name: txamqp091.test.repository.test_pictures -*-
"""
The pictures of the documentation.
"""

from __future__ import annotations

import re
import runpy
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.test.support.checkout import CHECKOUT

DOCS = CHECKOUT / "docs"


class PictureTests(SynchronousTestCase):
    """
    The pictures are as the sources draw them, and pages describe them.
    """

    def setUp(self) -> None:
        if not DOCS.exists():
            raise SkipTest("an installed package has no documents")

    def test_drawn(self) -> None:
        """
        The diagrams in the repository are what ``python docs/pictures`` draws.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        runpy.run_path(str(DOCS / "pictures" / "__main__.py"))["draw"](folder)
        drawn = sorted(folder.glob("*.svg"))
        self.assertEqual(len(drawn), 3)
        for each in drawn:
            kept = (DOCS / "pictures" / each.name).read_text()
            self.assertEqual(kept, each.read_text(), "run python docs/pictures")
            ElementTree.fromstring(kept)

    def test_demo(self) -> None:
        """
        The demo's picture has an output whose books balance.
        """
        text = unescape((DOCS / "pictures" / "demo.svg").read_text())
        ElementTree.fromstring(text.replace("&", "&amp;"))
        found = re.search(
            r"balance +(\d+) sent = (\d+) acknowledged \+ (\d+) dead-lettered", text
        )
        assert found is not None
        sent, acknowledged, dead = map(int, found.groups())
        self.assertEqual(sent, acknowledged + dead)

    def test_described(self) -> None:
        """
        Every picture of a page has a text for those who do not see it.
        """
        built = DOCS / "_build"
        for page in sorted(DOCS.rglob("*.rst")):
            if built in page.parents:
                continue
            for each in re.finditer(r"^\.\. image::.*\n(.*)", page.read_text(), re.M):
                self.assertIn(":alt:", each[1], f"{page}: {each[0]}")
