"""
Where a name of ours in a text leads to.

Texts name a class by the package that exports it, by the module that defines it, or by
its own name alone.  All of these lead to the one entry in the API reference.  A name
that exists, and is not public, is shown without a link; a name that does not exist is
left to Sphinx, which fails the build.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PACKAGE = "txamqp091"


def setup(app: Sphinx) -> dict[str, bool]:
    """
    Sphinx: the extension is loaded.
    """
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.Node | None:
    """
    Sphinx: a reference leads nowhere.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removesuffix("()").lstrip(".")
    domain = env.domains.python_domain
    found = documented(domain.objects, target, node.get("py:class"))
    if found is not None:
        node["reftarget"] = found
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", found, node, text
        )
    # mypy has checked annotations; some name types that only type checkers import.
    # A summary has lost its class: a name of any class will do.
    known = any(each.endswith(f".{target}") for each in domain.objects)
    if (
        known
        or node["reftype"] == "class"
        or exists(target, node.get("py:module"), node.get("py:class"))
    ):
        return text
    return None


def documented(objects: Any, target: str, inside: str | None) -> str | None:
    """
    The entry that a name means, if there is one.
    """
    name, rest = target, ""
    while name:
        entry = canonical(name) if name.startswith(PACKAGE) else None
        for each in entries(tuple(objects)).get(entry, ()) if entry else ():
            if each + rest in objects:
                return each + rest
        name, dot, last = name.rpartition(".")
        rest = f"{dot}{last}{rest}"
    same = [each for each in objects if each.endswith(f".{target}")]
    if inside:
        near = [each for each in same if f".{inside}." in each]
        same = near or same
    # A method of several classes is not a reference to one of them.
    return min(same, key=len) if len({canonical(each) for each in same}) == 1 else None


@cache
def entries(objects: tuple[str, ...]) -> dict[str, list[str]]:
    """
    The entries of each object, by the name of its definition.
    """
    found: dict[str, list[str]] = {}
    for each in objects:
        found.setdefault(canonical(each) or each, []).append(each)
    return found


@cache
def canonical(name: str) -> str | None:
    """
    The module and the name by which an object is defined, or None if there is none.
    """
    found = look_up(name)
    if found is None:
        return None
    module = getattr(found, "__module__", None)
    qualified = getattr(found, "__qualname__", getattr(found, "__name__", None))
    return f"{module}.{qualified}" if module and qualified else name


@cache
def look_up(name: str) -> Any:
    """
    The object that a dotted name means, from its module on, or None.
    """
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except (ImportError, ValueError):
            continue
        return attribute(found, parts[end:])
    return None


def attribute(found: Any, parts: list[str]) -> Any:
    """
    An attribute of an attribute; those that only instances have are in ``:ivar:``.
    """
    for number, part in enumerate(parts):
        if hasattr(found, part):
            found = getattr(found, part)
        elif part in documented_attributes(found) and number == len(parts) - 1:
            return f"{part} of an instance"
        else:
            return None
    return found


def documented_attributes(found: Any) -> set[str]:
    """
    The attributes of instances.
    """
    names: set[str] = set()
    for each in getattr(found, "__mro__", (found,)):
        names |= {*getattr(each, "__annotations__", ())}
        text = inspect.getdoc(each) or ""
        names |= {
            line.removeprefix(":ivar ").partition(":")[0].strip()
            for line in text.splitlines()
            if line.startswith(":ivar ")
        }
        direct = getattr(each, "direct", None)  # of an interface of zope's
        names |= {*each.names()} if callable(direct) else set()
    return names


@cache
def defined_names() -> set[str]:
    """
    The names of all classes and functions of the package, private ones too.
    """
    folder = Path(__file__).resolve().parent.parent / PACKAGE
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for path in folder.rglob("*.py")
        if "test" not in path.relative_to(folder).parts
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, definitions)
    }


def exists(target: str, module: str | None, inside: str | None) -> bool:
    """
    Whether there is such a name: of ours, of the modules in which the text's class is
    defined, or of another package.
    """
    if target.partition(".")[0] in {*dir(builtins), *sys.stdlib_module_names}:
        return True
    if target in defined_names():
        return True
    if look_up(target) is not None:
        return True
    places = [module or PACKAGE]
    if inside:
        places.append(f"{module}.{inside}")
        home = look_up(f"{module}.{inside}")
        for each in getattr(home, "__mro__", (home,)):
            places.append(getattr(each, "__module__", ""))
            places.append(f"{getattr(each, '__module__', '')}.{each.__qualname__}")
    return any(look_up(f"{place}.{target}") is not None for place in places if place)
