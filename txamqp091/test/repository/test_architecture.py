# -*- test-case-name: txamqp091.test.repository.test_architecture -*-
"""
The drawing in ``docs/about/architecture.rst``, held true.

Reads every module's imports, and fails when a layer reaches up, a module takes
a reactor, or a file stands where packaging would lose it.  What the modules
*do* is tested elsewhere.
"""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.test.support.checkout import CHECKOUT, PACKAGE

NAME = "txamqp091"

# Who may import whom.  A layer may always import itself.
BELOW: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "wire": {"errors"},
    "_machine": {"errors", "wire"},
    "root": {"version", "errors", "wire", "_machine"},
    "service": {"version", "errors", "wire", "root"},
    "worker": {"errors", "wire", "root", "service"},
    "daemon": {"version", "errors", "wire", "root", "service", "worker"},
    "tap": {"version", "errors", "root", "service", "worker", "daemon"},
    "cli": {"version", "errors", "wire", "root", "service", "worker", "daemon"},
    "__main__": {"cli"},
    "adapters": {"errors", "wire", "root"},
    # asyncio's modules of the adapters, which load the service when it is asked for.
    "asyncio": {"errors", "wire", "root", "service", "worker", "adapters"},
    "compat": {"errors", "wire", "root", "adapters"},
    "testing": {"version", "errors", "wire", "_machine", "root"},
    "facade": {"version", "errors", "wire", "root", "service", "worker"},
}

STANDARD_LIBRARY = set(sys.stdlib_module_names)
TWISTED = STANDARD_LIBRARY | {"twisted", "zope"}
TLS = {"OpenSSL", "cryptography", "service_identity"}

# What a layer may import that is not ours; the loops belong to their adapters.
OUTSIDE: dict[str, set[str]] = {
    "version": STANDARD_LIBRARY,
    "errors": STANDARD_LIBRARY,
    "wire": STANDARD_LIBRARY,
    "_machine": STANDARD_LIBRARY,
    "root": TWISTED | TLS | {"idna"},  # which Twisted needs, too
    # An extra, imported when it is asked for.
    "service": TWISTED | {"opentelemetry"},
    "worker": TWISTED,
    # The last one is an extra, imported when it is asked for.
    "daemon": TWISTED | {"prometheus_client"},
    "tap": TWISTED,
    "cli": TWISTED | {"click"},  # an extra
    "__main__": STANDARD_LIBRARY,
    "adapters": TWISTED,
    "asyncio": TWISTED | {"tornado"},
    "compat": TWISTED | {"tornado"},  # by the module of that adapter only
    "testing": TWISTED | TLS,
    "facade": {"__future__", "importlib", "typing"},
}

# The modules of the adapters that are above the worker.
ASYNCIO = {f"{NAME}.adapters.{each}" for each in ("aio", "tornado", "aio_client")}

BANNED_NAMES = {"abc", "base", "common", "core", "helpers", "manager", "utils"}

# The only module that may compile code: it makes the methods' codecs.
MAY_EXEC = "txamqp091.wire.method"


def module_name(path: Path) -> str:
    """
    The dotted name of the module in a file.
    """
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(name: str) -> str:
    """
    The layer that a module of ours belongs to.
    """
    if name == NAME:
        return "facade"
    if name in ASYNCIO:
        return "asyncio"
    first = name.split(".")[1]
    if first == "_version":
        return "version"
    return first if first in BELOW or first == "test" else "root"


@cache
def modules() -> dict[str, ast.Module]:
    """
    Every module of the package, parsed, by name.
    """
    return {
        module_name(path): ast.parse(path.read_bytes(), str(path))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported(node: ast.AST) -> list[str]:
    """
    The dotted names that a statement imports.  ``from a import b`` counts as
    ``a.b``.
    """
    if isinstance(node, ast.Import):
        return [each.name for each in node.names]
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        return [f"{module}.{each.name}" for each in node.names]
    return []


def imports(tree: ast.Module) -> Iterator[str]:
    """
    The dotted names that a module imports, at its top or inside functions.
    """
    for node in ast.walk(tree):
        yield from imported(node)


def our_module(name: str) -> str:
    """
    The module that an imported name of ours is in: ``txamqp091.errors.Closed``
    is in ``txamqp091.errors``.
    """
    while name not in modules() and "." in name:
        name = name.rpartition(".")[0]
    return name


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """
    The nodes that run when a module is imported.
    """
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from outside_functions(node)


def checkout_only() -> None:
    """
    Skip a test that reads files which only a checkout has.
    """
    if not (CHECKOUT / "setup.cfg").exists():
        raise SkipTest("this is an installed package, not a checkout")


def run(program: str) -> str:
    """
    What a program prints, run by a new interpreter that can import us.
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise AssertionError(done.stdout)
    return done.stdout.strip()


class LayerTests(SynchronousTestCase):
    """
    Imports go downward only.
    """

    def test_our_own(self) -> None:
        """
        A module imports modules of its own layer and of those below it.
        """
        upward = [
            f"{name} ({layer(name)}) imports {found} ({layer(found)})"
            for name, tree in modules().items()
            if layer(name) != "test"
            for found in map(our_module, imports(tree))
            if found.partition(".")[0] == NAME
            and layer(found) not in BELOW[layer(name)] | {layer(name)}
        ]
        self.assertEqual(upward, [])

    def test_others(self) -> None:
        """
        ``errors``, ``wire`` and ``_machine`` import the standard library alone;
        the layers above them also Twisted, and nothing that has to be installed
        besides.
        """
        foreign = [
            f"{name} imports {found}"
            for name, tree in modules().items()
            if layer(name) != "test"
            for found in imports(tree)
            if found.partition(".")[0] not in OUTSIDE[layer(name)] | {NAME}
        ]
        self.assertEqual(foreign, [])

    def test_nobody_imports_the_facade(self) -> None:
        """
        Modules import each other from where things are defined, not from the
        package's own list of names.
        """
        through_facade = [
            f"{name} imports {found}"
            for name, tree in modules().items()
            if layer(name) not in ("test", "facade")
            for found in imports(tree)
            if found.partition(".")[0] == NAME and our_module(found) == NAME
        ]
        self.assertEqual(through_facade, [])

    def test_absolute(self) -> None:
        """
        Imports are absolute, and none is of ``*``.
        """
        wrong = [
            f"{name} imports {found}"
            for name, tree in modules().items()
            for found in imports(tree)
            if found.startswith(".") or found.endswith(".*")
        ]
        self.assertEqual(wrong, [])

    def test_rules_see_a_breach(self) -> None:
        """
        The reading of imports, which the rules rest on, sees them at the top of
        a module, in functions and under conditions, and tells these apart.
        """
        tree = ast.parse(
            "import a.b\n"
            "class C:\n    def f():\n        from txamqp091.errors import Closed\n"
            "if x:\n    from .. import y\n"
        )
        self.assertEqual(
            sorted(imports(tree)), ["...y", "a.b", "txamqp091.errors.Closed"]
        )
        at_import = [
            name for node in outside_functions(tree) for name in imported(node)
        ]
        self.assertEqual(sorted(at_import), ["...y", "a.b"])
        self.assertEqual(layer("txamqp091.channel"), "root")
        self.assertEqual(layer("txamqp091._machine.channel"), "_machine")
        self.assertEqual(our_module("txamqp091.errors.Closed"), "txamqp091.errors")


def definitions(tree: ast.Module) -> Iterator[str]:
    """
    The names that a module gives to functions, classes, variables and attributes.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.attr


def private_attributes(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """
    The lines in which a module uses private attributes, their text, and their names.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            if not node.attr.endswith("__"):
                yield node.lineno, ast.unparse(node), node.attr


class PrivacyTests(SynchronousTestCase):
    """
    What is private to a package is used there only.
    """

    def test_private_attributes(self) -> None:
        """
        No module uses a private attribute that only another package defines: a seam has
        a name.  (A name that both define is not noticed.)
        """
        defined: dict[str, set[str]] = {}
        for name, tree in modules().items():
            defined.setdefault(layer(name), set()).update(definitions(tree))
        ours = {each for names in defined.values() for each in names}
        foreign = [
            f"{name}:{line}: {text}"
            for name, tree in modules().items()
            if layer(name) != "test"
            for line, text, attribute in private_attributes(tree)
            if attribute in ours - defined[layer(name)]
        ]
        self.assertEqual(foreign, [])


class ReactorTests(SynchronousTestCase):
    """
    Importing this package chooses no reactor, and its lower half no Twisted.
    """

    def test_no_reactor_at_import(self) -> None:
        """
        No module takes the global reactor as it is imported.
        """
        takers = [
            name
            for name, tree in modules().items()
            for node in outside_functions(tree)
            for found in imported(node)
            if found.startswith("twisted.internet.reactor")
        ]
        self.assertEqual(takers, [])

    def test_reactor_not_loaded(self) -> None:
        """
        Importing every module but the tests' installs no reactor.
        """
        names = [name for name in modules() if layer(name) != "test"]
        extras = [name for name in names if layer(name) in ("asyncio", "cli")]
        required = [name for name in names if name not in extras]
        loaded = run(
            "import sys, importlib\n"
            f"for name in {required!r}:\n"
            "    importlib.import_module(name)\n"
            f"for name in {extras!r}:\n"
            "    try:\n"
            "        importlib.import_module(name)\n"
            "    except ModuleNotFoundError as error:\n"
            "        assert error.name in ('tornado', 'click'), error\n"
            "print('twisted.internet.reactor' in sys.modules)\n"
        )
        self.assertEqual(loaded, "False")

    def test_lower_half_without_twisted(self) -> None:
        """
        ``errors``, ``wire`` and ``_machine`` load nothing of Twisted.
        """
        names = [
            name for name in modules() if layer(name) in ("errors", "wire", "_machine")
        ]
        # The package's __init__ offers the Twisted layer's names, so a stand-in
        # that only knows where the modules are takes its place.
        loaded = run(
            "import sys, importlib, types\n"
            f"package = types.ModuleType({NAME!r})\n"
            f"package.__path__ = [{str(PACKAGE)!r}]\n"
            f"sys.modules[{NAME!r}] = package\n"
            f"for name in {names!r}:\n"
            "    importlib.import_module(name)\n"
            "print(sorted(each for each in sys.modules\n"
            "    if each.partition('.')[0] in ('twisted', 'zope')))\n"
        )
        self.assertEqual(loaded, "[]")


class CodeTests(SynchronousTestCase):
    """
    Habits of the whole package that a reader may rely on.
    """

    def test_docstrings(self) -> None:
        """
        Every module says what lives in it.
        """
        silent = [
            name for name, tree in modules().items() if not ast.get_docstring(tree)
        ]
        self.assertEqual(silent, [])

    def test_tests_of_modules(self) -> None:
        """
        The first line of a module names a test module, or a package, that exists.
        """
        wrong = []
        for path in sorted(PACKAGE.rglob("*.py")):
            with path.open() as file:
                found = re.match(r"# -\*- test-case-name: (\S+) -\*-", file.readline())
            names = found[1].split(",") if found else []
            wrong += [f"{path}: {each}" for each in names if each not in modules()]
        self.assertEqual(wrong, [])

    def test_module_names(self) -> None:
        """
        No module has a name that says nothing, but where it is pika's.
        """
        vague = [
            name
            for name in modules()
            if name.rpartition(".")[2].strip("_") in BANNED_NAMES
            and not name.startswith(f"{NAME}.compat.pika.")
        ]
        self.assertEqual(vague, [])

    def test_exec(self) -> None:
        """
        Code is compiled at run time in one module only.
        """
        makers = {
            name
            for name, tree in modules().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("exec", "eval")
        }
        self.assertLessEqual(makers, {MAY_EXEC})

    def test_double_underscores(self) -> None:
        """
        A private name has one underscore; none is mangled.
        """
        mangled = [
            f"{name}: {found}"
            for name, tree in modules().items()
            for node in ast.walk(tree)
            for found in (
                getattr(node, "attr", None),
                getattr(node, "id", None),
                getattr(node, "arg", None),
                getattr(node, "name", None),
            )
            if isinstance(found, str)
            and found.startswith("__")
            and not found.endswith("__")
        ]
        self.assertEqual(mangled, [])

    def test_loggers(self) -> None:
        """
        Every logger has a namespace that does not depend on where its module is, and
        the documentation lists all of them.
        """
        checkout_only()
        loggers = [
            ast.unparse(node)
            for name, tree in modules().items()
            if layer(name) != "test"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Logger"
        ]
        documented = re.findall(
            "^``(txamqp091.[a-z]+)``",
            (CHECKOUT / "docs/guides/logging.rst").read_text(),
            re.M,
        )
        self.assertEqual(
            set(loggers), {f"Logger(namespace={each!r})" for each in documented}
        )


class PackagingTests(SynchronousTestCase):
    """
    What is in the checkout gets into the wheel.
    """

    def test_twisted_stays_a_namespace(self) -> None:
        """
        Neither ``twisted/`` nor ``twisted/plugins/`` has an ``__init__.py``: the
        first would hide Twisted, the second would overwrite a file of it.
        """
        checkout_only()
        self.assertFalse((CHECKOUT / "twisted" / "__init__.py").exists())
        self.assertFalse((CHECKOUT / "twisted" / "plugins" / "__init__.py").exists())

    def test_every_package_is_listed(self) -> None:
        """
        ``setup.cfg`` lists exactly the packages there are, and the plugin's.
        """
        checkout_only()
        config = configparser.ConfigParser()
        config.read(CHECKOUT / "setup.cfg")
        packages = {module_name(path) for path in PACKAGE.rglob("__init__.py")} | {
            "twisted.plugins"
        }
        self.assertEqual(set(config["options"]["packages"].split()), packages)

    def test_no_stray_folders(self) -> None:
        """
        Every folder with modules in it is a package.
        """
        strays = {
            str(path.parent)
            for path in PACKAGE.rglob("*.py")
            if not (path.parent / "__init__.py").exists()
        }
        self.assertEqual(strays, set())

    def test_package_dir(self) -> None:
        """
        ``setup.cfg`` maps the root to the checkout: without that line an
        editable install loses the plugin and says nothing.
        """
        checkout_only()
        config = configparser.ConfigParser()
        config.read(CHECKOUT / "setup.cfg")
        self.assertEqual(config["options"]["package_dir"].strip(), "= .")
