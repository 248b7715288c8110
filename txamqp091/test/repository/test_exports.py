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
from txamqp091.test.repository.test_architecture import layer, modules, run

# The public names, by package or module; CONTRIBUTING says what that means.
PUBLIC = {
    "txamqp091": """
        AMQPClientFactory AMQPClientService AMQPError AMQPProtocol
        AMQPlainCredentials AnonymousCredentials Binding Channel ChannelClosed
        Closed ConnectionClosed ConnectionParameters Consumer ConsumerCancelled
        ConsumerService Death Deliveries Delivery DeliveryMode Exchange ExchangeType
        ExternalCredentials Halt
        ICredentials LocalProtocolError Message Nacked PlainCredentials
        Properties PublishFailed Publisher Queue RPCClient RPCServer Reject
        RemoteProtocolError Requeue Retry RetryPolicy Returned TLSParameters
        Topology UnverifiedTLS __version__ connect endpoint_from_parameters
    """,
    "txamqp091.service": """
        AMQPClientService Address Binding Difference Entity EntityOutcome
        EntityState Exchange ExpiringCredentials Publisher Queue RPCClient
        RPCServer RecoveringChannel RecoveringConsumer RetryPolicy SRVRecords
        Secret SecretRefresh SecretUnavailable Telemetry Topology
    """,
    "txamqp091.worker": """
        ConsumerHealth ConsumerService Counts Dead Decode Deduplicate FailurePolicy Halt
        HandlerOptions HandlerTimeout Health MessageIds Middleware OffsetFile
        OffsetFileInUse OnError OnRefused Partial Pause RateLimit RecentMessageIds
        Reject Requeue Retry RetryQueues TooManyDeliveries UndecodableBody log_fields
        run_shutdown run_startup started
    """,
    "txamqp091.testing": """
        AsyncBrokerTestCase BrokerAssertions BrokerTestCase Direction Link
        MemoryBroker MemoryEndpoint MemoryReactor SteppingClock
    """,
    "txamqp091.adapters.aio": """
        AMQPClient Answer Channel Connection ConsumerService Deliveries Publisher
        RPCClient RPCServer RecoveringChannel RecoveringConsumer Subscription connect
    """,
    "txamqp091.adapters.blocking": """
        BlockingChannel BlockingConnection Deliveries Subscription Timer in_threads
    """,
    "txamqp091.adapters.threads": """
        InThreads ThreadsafeChannel in_threads threadsafe
    """,
    "txamqp091.adapters.tornado": """
        AMQPClient Channel Connection ConsumerService Deliveries Publisher RPCClient
        RPCServer RecoveringChannel RecoveringConsumer connect connect_future
    """,
    "txamqp091.compat.pika": """
        AMQPConnectionWorkflow AsyncioConnection BaseConnection BasicProperties
        BlockingConnection ConnectionParameters DeliveryMode ExchangeType
        ExternalCredentials PlainCredentials SSLOptions SelectConnection
        URLParameters __version__
        adapters channel compat connection credentials exceptions frame spec
    """,
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


def exported(name: str) -> list[str]:
    """
    What a module has in ``__all__``, read from its source: it may not be importable.
    """
    for node in modules()[name].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    return []


class ExportTests(SynchronousTestCase):
    """
    What the package and its modules offer.
    """

    def test_public(self) -> None:
        """
        Packages and modules export these names, and no others.
        """
        for name, names in PUBLIC.items():
            self.assertEqual(exported(name), sorted(names.split()), name)

    def test_package(self) -> None:
        """
        What ``txamqp091`` exports is the very object of the package or module that it
        comes from, also what is imported when it is first used.
        """
        for node in ast.walk(modules()["txamqp091"]):
            if isinstance(node, ast.ImportFrom) and node.module != "typing":
                module = importlib.import_module(str(node.module))
                for each in node.names:
                    found = getattr(txamqp091, each.name, None)
                    self.assertIs(found, getattr(module, each.name), each.name)
        self.assertLessEqual(set(txamqp091.__all__), set(dir(txamqp091)))
        with self.assertRaises(AttributeError):
            _ = txamqp091.Nothing

    def test_imported_later(self) -> None:
        """
        To import the package, or asyncio's adapter, loads neither services nor workers.
        """
        loaded = run(
            "import sys, txamqp091, txamqp091.adapters.aio as aio\n"
            "print(sorted(each for each in sys.modules if each.startswith(\n"
            "    ('txamqp091.service', 'txamqp091.worker', 'twisted.application'))))\n"
            "txamqp091.Reject, txamqp091.Publisher, aio.AMQPClient"
        )
        self.assertEqual(loaded, "[]")

    def test_modules_say_what_is_public(self) -> None:
        """
        A module with public names lists them in ``__all__``.  Modules of a service do
        not, since all of them are private, and neither does asyncio's client: the API
        reference shows its names where the list is.
        """
        silent = [
            name
            for name, tree in modules().items()
            if layer(name) not in ("test", "service")
            and name != "txamqp091.adapters.aio_client"
            and public_definitions(tree)
            and not hasattr(importlib.import_module(name), "__all__")
        ]
        self.assertEqual(silent, [])

    def test_lists_are_true(self) -> None:
        """
        Whatever ``__all__`` names is there, once.
        """
        for name in modules():
            if name == "txamqp091.adapters.tornado" or layer(name) == "test":
                continue
            module = importlib.import_module(name)
            listed = getattr(module, "__all__", [])
            self.assertEqual(len(set(listed)), len(listed), name)
            for each in listed:
                self.assertTrue(hasattr(module, each), f"{name}.{each}")
