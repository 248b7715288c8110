# -*- test-case-name: txamqp091.test.unit.adapters.test_signatures -*-
"""
What the adapters offer, beside what `Channel` does: the same verbs, with the same
arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import service, worker
from txamqp091.adapters import aio, blocking, threads
from txamqp091.channel import Channel
from txamqp091.protocol import AMQPProtocol
from txamqp091.service import RecoveringChannel

# What is for services, and not for programs.
INTERNAL = {"abandon"}

# What the channel of a service leaves to the service, or to one of its channels.
OF_ONE_CHANNEL = {
    "access_request",
    "basic_ack",
    "basic_cancel",
    "basic_consume",
    "basic_nack",
    "basic_qos",
    "basic_recover",
    "basic_recover_async",
    "basic_reject",
    "close",
    "confirm_select",
    "consume",
    "flow",
    "join_acks",
    "observe_returns",
    "tx_select",
    "when_closed",
}

# What asyncio's client has in another shape, and why.
STARTED_OTHERWISE = {
    "startService": "start()",
    "stopService": "stop(), which is awaited",
    "skip_grace_period": "stop() is cancelled",
    "restore_route": "it is for publishers",
    "change": "it is for the daemon",
}
# What daemons pass to a consumer service.
OF_THE_DAEMON = {"republish", "threads", "histogram"}

# What services call.
OF_THE_SERVICE = {
    "abandon",
    "attach",
    "call",
    "detach",
    "finish",
    "forget",
    "reset",
    "retry_now",
    "stop",
    "unsubscribe",
}

# What a program without a loop has in another shape, and why.
BLOCKING_OTHERWISE = {
    "basic_consume": "its handler is called by turns",
    "join_acks": "each acknowledgement leaves at once",
    "when_closed": "there is nobody to tell: calls raise",
}


def public_methods(of: type[Any]) -> dict[str, Callable[..., Any]]:
    """
    The methods of a class that users call.
    """
    return {
        name: member
        for name, member in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_")
    }


def arguments(method: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """
    What a method takes: names, kinds and defaults.  ``settler`` is a seam for adapters
    and services, which pass their own.
    """
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(method).parameters.values()
        if each.name != "settler"
    ]


class SignatureTests(SynchronousTestCase):
    """
    The facades have `Channel`'s verbs.
    """

    def compare(
        self, facade: type[Any], original: type[Any], otherwise: frozenset[str]
    ) -> None:
        """
        Check that a facade has each method of what is behind it, with its arguments.
        """
        offered = public_methods(facade)
        for name, method in public_methods(original).items():
            if name not in otherwise:
                self.assertIn(name, offered, facade)
                self.assertEqual(
                    arguments(offered[name]), arguments(method), f"{facade}.{name}"
                )

    def test_aio(self) -> None:
        """
        asyncio's channel has all of them.
        """
        self.compare(aio.Channel, Channel, frozenset(INTERNAL))

    def test_aio_connection(self) -> None:
        """
        asyncio's connection has all of `AMQPProtocol`'s that are not Twisted's, but
        `when_open`: it is.
        """
        mine = {
            name
            for name in public_methods(AMQPProtocol)
            if name in ("close", "open_channel", "update_secret")
            or name.startswith(("when_", "observe_"))
        }
        others = set(public_methods(AMQPProtocol)) - mine | {"when_open"}
        self.compare(aio.Connection, AMQPProtocol, frozenset(others))

    def test_blocking(self) -> None:
        """
        The blocking channel has all of them, but for those that are listed.
        """
        otherwise = frozenset(BLOCKING_OTHERWISE) | INTERNAL
        self.compare(blocking.BlockingChannel, Channel, otherwise)

    def test_threadsafe(self) -> None:
        """
        The channel for other threads has all that give an answer.
        """
        otherwise = {"when_closed", "observe_returns", "consume", "join_acks"}
        self.compare(
            threads.ThreadsafeChannel, Channel, frozenset(otherwise) | INTERNAL
        )

    def test_recovering(self) -> None:
        """
        The channel of a service has those that belong to no channel in particular.
        """
        self.compare(RecoveringChannel, Channel, frozenset(OF_ONE_CHANNEL) | INTERNAL)

    def test_aio_client(self) -> None:
        """
        What is on asyncio's client has the methods of the service and the worker, but
        for those that are listed.
        """
        services = {name for name in dir(Service) if not name.startswith("_")}
        otherwise = frozenset(STARTED_OTHERWISE) | services
        self.compare(aio.AMQPClient, service.AMQPClientService, otherwise)
        self.compare(aio.ConsumerService, worker.ConsumerService, otherwise)
        of_service = frozenset(OF_THE_SERVICE)
        self.compare(aio.RecoveringChannel, RecoveringChannel, of_service)
        self.compare(aio.RecoveringConsumer, service.RecoveringConsumer, of_service)
        self.compare(aio.Publisher, service.Publisher, frozenset())
        self.compare(aio.RPCClient, service.RPCClient, frozenset({"forget"}))
        self.compare(aio.RPCServer, service.RPCServer, frozenset())

    def test_aio_made(self) -> None:
        """
        They are made with the same arguments, where a client takes the place of the
        service; the client itself takes no reactor.
        """
        for name in ("Publisher", "RPCClient", "RPCServer", "ConsumerService"):
            native = getattr(service, name, None) or getattr(worker, name)
            made = {each[0]: each for each in arguments(native.__init__)}
            mine = {each[0]: each for each in arguments(getattr(aio, name).__init__)}
            for other in ("service", "client"):
                made.pop(other, None)
                mine.pop(other, None)
            for each in OF_THE_DAEMON:
                made.pop(each, None)
            self.assertEqual(list(mine.values()), list(made.values()), name)
        self.assertEqual(
            [
                each
                for each in arguments(aio.AMQPClient.__init__)
                if each[0] != "ssl_context"
            ],
            [
                each
                for each in arguments(service.AMQPClientService.__init__)
                if each[0] != "reactor"
            ],
        )

    def test_documented(self) -> None:
        """
        A verb is documented in every shape.
        """
        for facade in (
            aio.Channel,
            aio.AMQPClient,
            aio.ConsumerService,
            aio.Publisher,
            aio.RPCClient,
            aio.RPCServer,
            aio.RecoveringChannel,
            aio.RecoveringConsumer,
            blocking.BlockingChannel,
            RecoveringChannel,
        ):
            for name, method in public_methods(facade).items():
                self.assertTrue(inspect.getdoc(method), f"{facade}.{name}")
