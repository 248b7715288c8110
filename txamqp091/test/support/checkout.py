# -*- test-case-name: txamqp091.test.repository.test_architecture -*-
"""
Folders that tests read files from: the checkout, the package, and the tests' data.
"""

from __future__ import annotations

__all__ = ["CHECKOUT", "DATA", "PACKAGE"]

from pathlib import Path

#: The package ``txamqp091``.
PACKAGE = Path(__file__).resolve().parents[2]

#: The folder with ``setup.cfg`` and ``docs/``, unless the package is installed.
CHECKOUT = PACKAGE.parent

#: The files that tests read.
DATA = PACKAGE / "test" / "data"
