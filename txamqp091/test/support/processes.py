# -*- test-case-name: txamqp091.test.support.test_rabbit -*-
"""
Server processes for tests, that do not outlive the tests.

What a RabbitMQ node is made of, apart from RabbitMQ: free ports, a process with a
guard, and Erlang's port mapper.  Everything listens on the loopback interface only.
"""

from __future__ import annotations

import atexit
import contextlib
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["HOST", "PATH", "Epmd", "Process", "RabbitError", "free_ports", "wait_for"]

HOST = "127.0.0.1"

#: The servers' ``PATH``: nothing else of our environment reaches them.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RabbitError(Exception):
    """
    A server did not do what it was asked to; the text ends with what it said.
    """


def free_ports(count: int) -> list[int]:
    """
    Different TCP ports that nobody uses.

    They lie outside the range from which the kernel takes the ports of outgoing
    connections: so a node that was killed gets its port back, and a client that
    knocks at the port of a dead node never ends up connected to itself.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    low, high = map(int, ephemeral.split())
    candidates = [*range(10000, low), *range(high + 1, 65536)]
    random.SystemRandom().shuffle(candidates)
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            sock = stack.enter_context(socket.socket())
            port = candidates.pop() if candidates else 0
            with contextlib.suppress(OSError):
                sock.bind((HOST, port))
                ports.append(sock.getsockname()[1])
    return ports


def wait_for(condition: Callable[[], bool], timeout: float, step: float = 0.05) -> bool:
    """
    Ask again and again, until the answer is yes or the time is over.

    :returns: the last answer.
    """
    deadline = time.monotonic() + timeout
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(step)
    return answer


class Process:
    """
    A server process that ends when we end, however we end.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: Path | None = None,
        directory: Path | None = None,
        temporary: Path | None = None,
    ) -> None:
        """
        :param output: the file that what it says is appended to.
        :param directory: where it runs.
        :param temporary: what to remove if we die without ending it.
        """
        with open(output or "/dev/null", "ab") as file:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=directory,
                env=environment,
                start_new_session=True,  # a Ctrl-C is not for the server
            )
        # When we die, and be it by SIGKILL, the pipe closes and "read" returns.
        # The group, for what it has started itself may write on where we clean up.
        script = (
            'read _; kill -9 "-$0"; [ -z "$1" ] || '
            '{ sleep 1; rm -rf "$1"; sleep 1; rm -rf "$1"; }'
        )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", script, str(self.pid), str(temporary or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": PATH},
            start_new_session=True,
        )
        _processes.add(self)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def send(self, number: int) -> None:
        """
        Send a signal.
        """
        self._popen.send_signal(number)

    def end(self, number: int = signal.SIGTERM, timeout: float = 30.0) -> None:
        """
        Send a signal, and wait for the process to end.
        """
        # First of all the guard, lest it kill a process that reuses the id.
        self._guard.kill()
        self._guard.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self.send(number)
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        _processes.discard(self)


_processes: set[Process] = set()


@atexit.register
def _end_all() -> None:
    for process in list(_processes):
        process.end(signal.SIGKILL)


class Epmd:
    """
    An Erlang port mapper of our own: in the foreground, so that it ends when we
    end it.
    """

    def __init__(self) -> None:
        [self.port] = free_ports(1)
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """
        Start it, and wait until it listens.
        """
        self._process = Process(
            ["epmd", "-port", str(self.port), "-address", HOST],
            environment={"PATH": PATH},
        )
        if not wait_for(self._listens, 60):
            self.stop()
            raise RabbitError(f"no epmd on port {self.port}")

    def stop(self) -> None:
        """
        End it.
        """
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection((HOST, self.port), 1).close()
            return True
        return False
