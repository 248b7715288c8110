# -*- test-case-name: txamqp091.test.repository.test_exports -*-
"""
The public names.  A name that appears here is a promise: taking it back needs a
deprecation and a news fragment.
"""

from __future__ import annotations

import ast
import importlib

from twisted.trial.unittest import SynchronousTestCase

import txamqp091
from txamqp091 import (
    _version,
    channel,
    consumer,
    credentials,
    endpoint,
    errors,
    factory,
    interfaces,
    message,
    parameters,
    protocol,
)
from txamqp091.test.repository.test_architecture import layer, modules
from txamqp091.wire import properties

# Each name of the package, and the module that defines it.
EXPORTS = {
    "AMQPClientFactory": factory,
    "AMQPError": errors,
    "AMQPProtocol": protocol,
    "AMQPlainCredentials": credentials,
    "AnonymousCredentials": credentials,
    "Channel": channel,
    "ChannelClosed": errors,
    "Closed": errors,
    "ConnectionClosed": errors,
    "ConnectionParameters": parameters,
    "Consumer": consumer,
    "ConsumerCancelled": errors,
    "Deliveries": consumer,
    "Delivery": message,
    "ExternalCredentials": credentials,
    "ICredentials": interfaces,
    "LocalProtocolError": errors,
    "Message": message,
    "Nacked": errors,
    "PlainCredentials": credentials,
    "Properties": properties,
    "PublishFailed": errors,
    "RemoteProtocolError": errors,
    "Returned": errors,
    "TLSParameters": parameters,
    "UnverifiedTLS": parameters,
    "__version__": _version,
    "connect": endpoint,
    "endpoint_from_parameters": endpoint,
}


def public_definitions(tree: ast.Module) -> list[str]:
    """
    The names that a module defines at its top, and does not hide by an underscore.
    """
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [each.id for each in node.targets if isinstance(each, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_")]


class ExportTests(SynchronousTestCase):
    """
    What the package and its modules offer.
    """

    def test_package(self) -> None:
        """
        ``txamqp091`` offers these names, each the very object of its own module.
        """
        self.assertEqual(sorted(txamqp091.__all__), sorted(EXPORTS))
        for name, module in EXPORTS.items():
            self.assertIs(getattr(txamqp091, name), getattr(module, name), name)

    def test_modules_say_what_is_public(self) -> None:
        """
        A module with public names lists them in ``__all__``.
        """
        silent = [
            name
            for name, tree in modules().items()
            if layer(name) != "test"
            and public_definitions(tree)
            and not hasattr(importlib.import_module(name), "__all__")
        ]
        self.assertEqual(silent, [])

    def test_lists_are_true(self) -> None:
        """
        Whatever ``__all__`` names is there, once.
        """
        for name in modules():
            if layer(name) in ("test", "adapters"):
                continue
            module = importlib.import_module(name)
            listed = getattr(module, "__all__", [])
            self.assertEqual(len(set(listed)), len(listed), name)
            for each in listed:
                self.assertTrue(hasattr(module, each), f"{name}.{each}")
