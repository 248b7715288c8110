"""
The documentation's build: Sphinx makes the guides and, from the docstrings, the API
reference, so that one search finds both.  A name that is gone fails the build.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
# By its path: the package itself would want Twisted.
VERSION = runpy.run_path(str(CHECKOUT / "txamqp091" / "_version.py"))["__version__"]

project = "txamqp091"
author = "the txamqp091 authors"
copyright = author
release = version = VERSION

sys.path.insert(0, str(CHECKOUT / "docs"))
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "api_references"]
autosummary_generate = False
exclude_patterns = ["_build", "examples"]
nitpicky = True
# In the prose, too, single backticks are for names of ours.
default_role = "py:obj"

html_theme = "furo"
html_title = f"txamqp091 {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(CHECKOUT / "docs" / "search_scores.js")

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# A class is shown with what it adds to its bases.
autodoc_inherit_docstrings = False
