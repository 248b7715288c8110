"""
The documentation's build: Sphinx for the prose, pydoctor for the API.  The prose
links to the API by its real names, and a name that is gone fails the build.
"""

from __future__ import annotations

import runpy
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
# By its path: the package itself would want Twisted.
VERSION = runpy.run_path(str(CHECKOUT / "txamqp091" / "_version.py"))["__version__"]

project = "txamqp091"
author = "the txamqp091 authors"
copyright = author
release = version = VERSION

extensions = ["sphinx.ext.intersphinx", "pydoctor.sphinx_ext.build_apidocs"]
exclude_patterns = ["_build", "examples"]
nitpicky = True
# In the prose, too, single backticks are for names of ours.
default_role = "py:obj"

html_theme = "furo"
html_title = f"txamqp091 {release}"
html_copy_source = False

# The build looks nothing up on the network; pydoctor adds its own inventory.
intersphinx_mapping: dict[str, tuple[str, tuple[str, ...]]] = {}
pydoctor_url_path = "api/"
pydoctor_args = [
    "--project-name=txamqp091",
    f"--project-version={release}",
    f"--project-base-dir={CHECKOUT}",
    "--docformat=restructuredtext",
    "--html-output={outdir}/api",
    "--privacy=HIDDEN:txamqp091.test",
    "--privacy=HIDDEN:txamqp091.test.**",
    "--cls-member-order=source",
    "--mod-member-order=source",
    str(CHECKOUT / "txamqp091"),
]
