"""
The documentation's build: Sphinx for the prose, pydoctor for the API.  The prose
links to the API by its real names, and a name that is gone fails the build.
"""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
# By its path: the package itself would want Twisted.
VERSION = runpy.run_path(str(CHECKOUT / "txamqp091" / "_version.py"))["__version__"]

# Beside what the packages export, all names that these modules list are public.
PUBLIC_MODULES = (
    "txamqp091.adapters.aio",
    "txamqp091.adapters.blocking",
    "txamqp091.adapters.threads",
    "txamqp091.adapters.tornado",
    "txamqp091.arguments",
    "txamqp091.errors",
    "txamqp091.wire.spec",
)


def exported(tree):
    """
    The names in ``__all__``.
    """
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def defined(tree):
    """
    The names that a module defines, private ones aside.
    """
    names = [getattr(node, "name", None) for node in tree.body]
    for node in tree.body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names += [getattr(each, "id", None) for each in targets]
    return {name for name in names if name and not name.startswith("_")}


def hidden_names():
    """
    What the API reference does not show: all that no package exports.
    """
    trees = {}
    for path in sorted((CHECKOUT / "txamqp091").rglob("*.py")):
        parts = path.relative_to(CHECKOUT).with_suffix("").parts
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        if not name.startswith("txamqp091.test."):
            trees[name] = package, ast.parse(path.read_bytes())
    shown = {name: exported(trees[name][1]) for name in PUBLIC_MODULES}
    for package, tree in trees.values():
        for node in ast.walk(tree) if package else ():
            if isinstance(node, ast.ImportFrom) and node.module in trees:
                # A module with a list keeps its names in the reference; those of
                # another one are shown at the package.
                listed = exported(trees[node.module][1])
                names = {each.name for each in node.names} & exported(tree) & listed
                if names:
                    shown.setdefault(node.module, set()).update(names)
    for name, (package, tree) in trees.items():
        if not package and name not in shown:
            yield name
        elif not package:
            yield from (f"{name}.{each}" for each in defined(tree) - shown[name])


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
html_static_path = ["_static"]
html_css_files = ["site.css"]

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
    "--privacy=HIDDEN:txamqp091.daemon",
    "--privacy=HIDDEN:txamqp091.testing._broker",
    "--privacy=HIDDEN:txamqp091.**._*",
    "--privacy=HIDDEN:txamqp091._*",
    "--privacy=PUBLIC:txamqp091.**.__*__",
    *(f"--privacy=HIDDEN:{name}" for name in hidden_names()),
    "--cls-member-order=source",
    "--mod-member-order=source",
    str(CHECKOUT / "txamqp091"),
]
