# -*- test-case-name: txamqp091.test.interop.test_clients -*-
"""
Clients that are not ours talk to the in-memory broker over TCP, and to RabbitMQ, and
see the same: what each says is compared line by line with a transcript.

The programs are in `txamqp091.test.interop.foreign`.  A transcript, ``data/foreign``,
is what one of them said of a RabbitMQ::

    python -m txamqp091.test.interop.foreign.py_amqp URI >py_amqp-4.3.txt
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from typing import ClassVar, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, TestCase

from txamqp091.test.support.checkout import CHECKOUT, DATA
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.testing.memory import MemoryBroker

TRANSCRIPTS = DATA / "foreign"


def transcript(client: str, version: str) -> list[str]:
    """
    What a client says of a RabbitMQ.
    """
    like = ".".join(version.split(".")[:2])
    return (TRANSCRIPTS / f"{client}-{like}.txt").read_text().splitlines()


def require(present: bool, what: str) -> None:
    """
    Skip a test without what it needs; in CI it has to be there.
    """
    if not present:
        problem = f"{what} is not installed"
        if os.environ.get("CI"):
            raise AssertionError(problem)
        raise SkipTest(problem)


async def said(client: str, uri: str, vhost: str) -> list[str]:
    """
    Run a client.

    :param vhost: the virtual host, which is left out of what it says.
    """
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "LC_ALL": "C.UTF-8"}
    running: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
        sys.executable,
        ["-m", f"txamqp091.test.interop.foreign.{client}", uri],
        environment,
    )
    output, errors, status = await running
    if status or errors:
        raise AssertionError(f"status {status}\n{output.decode()}\n{errors.decode()}")
    return output.decode().replace(vhost, "/").splitlines()


class _Clients:
    """
    The clients, by a test each.
    """

    async def check(self, client: str) -> None:
        """
        Compare what a client says with what it has said before.
        """
        raise NotImplementedError

    async def test_pika(self) -> None:
        """
        pika, which blocks.
        """
        require(find_spec("pika") is not None, "pika")
        await self.check("pika_blocking")

    async def test_aio_pika(self) -> None:
        """
        aio-pika, on asyncio.
        """
        require(find_spec("aio_pika") is not None, "aio-pika")
        await self.check("aio_pika_client")

    async def test_py_amqp(self) -> None:
        """
        py-amqp, which is below Celery.
        """
        require(find_spec("amqp") is not None, "amqp")
        await self.check("py_amqp")

    async def test_amqp_tools(self) -> None:
        """
        amqp-tools, on librabbitmq.
        """
        require(shutil.which("amqp-publish") is not None, "amqp-tools")
        await self.check("amqp_tools")


class MemoryTests(_Clients, TestCase):
    """
    With the in-memory broker, as each version of RabbitMQ.
    """

    timeout = 300.0
    versions: ClassVar[tuple[str, ...]] = ("3.10.8", "4.3.6")

    async def check(self, client: str) -> None:
        from twisted.internet import reactor

        for version in self.versions:
            broker = MemoryBroker(reactor, version=version)
            port = broker.listen(cast(IReactorTCP, reactor))
            self.addCleanup(port.stopListening)
            number = cast(IPv4Address, port.getHost()).port
            uri = f"amqp://guest:guest@127.0.0.1:{number}/%2F"
            lines = await said(client, uri, "/")
            self.assertEqual(lines, transcript(client, version), version)
            # That the last one has hung up may come after its end.
            await until(lambda broker=broker: not broker.sessions)  # type: ignore[misc]
            self.assertEqual(broker.queues(), [])


@every_broker
class ForeignTests(_Clients, RabbitTestCase):
    """
    With RabbitMQ.
    """

    async def check(self, client: str) -> None:
        lines = await said(client, self.uri, self.vhost)
        self.assertEqual(lines, transcript(client, self.node.version))
