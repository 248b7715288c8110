# -*- test-case-name: txamqp091.test.support.test_rabbit -*-
"""
The RabbitMQ servers that are installed here, and those that should be.

``TXAMQP091_BROKERS`` lists where they are: a path with ``:`` between the roots of
their file systems, ``/`` being the system's own.  Without it they are the system's
and those in the chroots that ``.ci/brokers`` makes: in ``TXAMQP091_BROKERS_DIR``, or
in ``/var/lib/txamqp091``.

``TXAMQP091_BROKERS`` can list running servers instead, as URIs with spaces between
them: ``amqp://localhost:5673 amqp://localhost:5674``, as ``.ci/compose.yaml`` starts
them.  The tests control each server by ``TXAMQP091_RABBITMQCTL``, a command in which
``{port}`` is the server's port.  Tests that start, stop or configure a server are
skipped.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from txamqp091.wire.spec import PROTOCOL_HEADER, ConnectionStart

__all__ = ["Broker", "Installation", "known_brokers", "running_server"]

#: What the project promises to work with, at its two ends: a name, the first
#: version it means, and the first that it does not mean any more.
REQUIRED = {"3.10": ((3, 10), (3, 11)), "4.3": ((4, 3), (5,))}


@dataclass(frozen=True)
class Installation:
    """
    An installed RabbitMQ.

    :ivar root: where its file system begins: ``/``, or a chroot.
    :ivar version: such as ``3.10.8``.
    :ivar port: where it listens, if it is a running server; otherwise 0.
    """

    root: Path
    version: str
    port: int = 0

    @classmethod
    def at(cls, root: Path) -> Installation | None:
        """
        The RabbitMQ that is installed under ``root``, if there is one.
        """
        pattern = "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
        for script in sorted(root.glob(pattern), reverse=True):
            return cls(root, script.parent.parent.name.partition("-")[2])
        return None

    @property
    def number(self) -> tuple[int, ...]:
        """
        The version, to compare.
        """
        return tuple(map(int, re.findall(r"\d+", self.version)))

    @property
    def sbin(self) -> str:
        """
        Where the server's own scripts are.  Those in ``/usr/sbin`` change to the
        system's broker's user.
        """
        return f"/usr/lib/rabbitmq/lib/rabbitmq_server-{self.version}/sbin"

    def inside(self, path: Path) -> str:
        """
        What the server calls the file that we call ``path``.
        """
        return f"/{path.relative_to(self.root)}"

    def command(self, *arguments: str) -> list[str]:
        """
        The command line that runs a program where the server is installed, as
        one process: each step replaces the one before it, so that the process
        id that we get is the program's.
        """
        if self.root == Path("/"):
            return list(arguments)
        # Without /proc, RabbitMQ's memory monitor is dead.  The mount is in a name
        # space of its own: nobody else sees it, and there is nothing to undo.
        script = 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"'
        unshare = ["unshare", "--mount", "--propagation", "private"]
        if os.geteuid():
            unshare.append("--map-root-user")
        return [*unshare, "/bin/sh", "-c", script, str(self.root), *arguments]

    def make_directory(self, name: str) -> Path:
        """
        A new temporary directory that the server can see.
        """
        inside = None if self.root == Path("/") else self.root / "tmp"
        return Path(tempfile.mkdtemp(prefix=f"txamqp091-{name}-", dir=inside)).resolve()


@dataclass(frozen=True)
class Broker:
    """
    A RabbitMQ to test with.

    :ivar name: its version, whole if it is there, else the part that matters.
    :ivar installation: where it is, or `None` if it is not there.
    """

    name: str
    installation: Installation | None


def known_brokers() -> Iterator[Broker]:
    """
    The brokers that are here, one of each version, then the required ones that are
    not.
    """
    listed = os.environ.get("TXAMQP091_BROKERS", "")
    found: dict[str, Installation] = {}
    for uri in listed.split() if "://" in listed else ():
        running = running_server(uri)
        found.setdefault(running.version, running)
    for root in _roots(listed):
        installation = Installation.at(root)
        if installation is not None:
            found.setdefault(installation.version, installation)
    for version, installation in found.items():
        yield Broker(version, installation)
    for name, (first, end) in REQUIRED.items():
        if not any(first <= each.number < end for each in found.values()):
            yield Broker(name, None)


def _roots(listed: str) -> list[Path]:
    if listed:
        paths = [] if "://" in listed else listed.split(":")
        return [Path(root).resolve() for root in paths if root]
    chroots = os.environ.get("TXAMQP091_BROKERS_DIR") or "/var/lib/txamqp091"
    return [Path("/"), *sorted(Path(chroots).glob("rabbitmq-*"))]


@cache
def running_server(uri: str) -> Installation:
    """
    The RabbitMQ that listens at a URI.  It tells its version before anybody logs in.

    :raises ValueError: the URI is not that of a RabbitMQ on this machine.
    """
    parts = urlsplit(uri)
    port = parts.port or 5672
    if parts.scheme != "amqp" or parts.hostname not in ("localhost", "127.0.0.1"):
        raise ValueError(f"TXAMQP091_BROKERS: not amqp://localhost:PORT: {uri}")
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.settimeout(30)
            sock.sendall(PROTOCOL_HEADER)
            stream = sock.makefile("rb")
            payload = stream.read(int.from_bytes(stream.read(7)[3:], "big"))
    except OSError as error:
        raise ValueError(f"TXAMQP091_BROKERS: {uri}: {error}") from error
    if payload[:4] != ConnectionStart.prefix:
        raise ValueError(f"TXAMQP091_BROKERS: {uri}: no RabbitMQ answers there")
    version = ConnectionStart.decode(payload).server_properties["version"]
    return Installation(Path("/"), str(version), port)
