# -*- test-case-name: txamqp091.test.support.test_rabbit -*-
"""
The RabbitMQ servers that are installed here, and those that should be.

``TXAMQP091_BROKERS`` lists where they are: a path with ``:`` between the roots of
their file systems, ``/`` being the system's own.  Without it they are the system's
and those in the chroots that ``.ci/brokers`` makes: in ``TXAMQP091_BROKERS_DIR``, or
in ``/var/lib/txamqp091``.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Broker", "Installation", "known_brokers"]

#: What the project promises to work with, at its two ends: a name, the first
#: version it means, and the first that it does not mean any more.
REQUIRED = {"3.10": ((3, 10), (3, 11)), "4.3": ((4, 3), (5,))}


@dataclass(frozen=True)
class Installation:
    """
    An installed RabbitMQ.

    :ivar root: where its file system begins: ``/``, or a chroot.
    :ivar version: such as ``3.10.8``.
    """

    root: Path
    version: str

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
    found: dict[str, Installation] = {}
    for root in _roots():
        installation = Installation.at(root)
        if installation is not None:
            found.setdefault(installation.version, installation)
    for version, installation in found.items():
        yield Broker(version, installation)
    for name, (first, end) in REQUIRED.items():
        if not any(first <= each.number < end for each in found.values()):
            yield Broker(name, None)


def _roots() -> list[Path]:
    listed = os.environ.get("TXAMQP091_BROKERS")
    if listed:
        return [Path(root).resolve() for root in listed.split(":") if root]
    chroots = os.environ.get("TXAMQP091_BROKERS_DIR") or "/var/lib/txamqp091"
    return [Path("/"), *sorted(Path(chroots).glob("rabbitmq-*"))]
