"""
What the client scripts have in common: the task, the meter, and the report.

A script is run as ``python -m benchmarks.clients.NAME TASK``, where the task is a JSON
object.  It connects, prepares, starts the meter, does the work, stops the meter, and
writes the result to its standard output as one line of JSON.  All that it has not
got, a case of its own name, it leaves to the driver to show as a gap.
"""

from __future__ import annotations

import cProfile
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["Meter", "Task", "case_of", "report", "resident"]

Case = TypeVar("Case")

#: How often the event loop is asked for a call, in seconds.
_TICK = 0.01


@dataclass(frozen=True)
class Task:
    """
    What to measure.

    :ivar uri: the broker.
    :ivar queue: a queue, which exists; for the cases that consume, it is full.
    :ivar case: what to do.
    :ivar count: with how many messages.
    :ivar size: of how many bytes each.
    :ivar window: how many may be unconfirmed.
    :ivar prefetch: how many may be unacknowledged.
    :ivar lag: whether to see how late the event loop is meanwhile.
    """

    uri: str
    queue: str
    case: str
    count: int
    size: int = 128
    window: int = 1000
    prefetch: int = 200
    lag: bool = False

    @classmethod
    def from_command_line(cls) -> Task:
        """
        The task that the driver gave.
        """
        return cls(**json.loads(sys.argv[1]))

    def to_argument(self) -> str:
        """
        The other way round.
        """
        return json.dumps(asdict(self))

    @property
    def body(self) -> bytes:
        """
        The body of every message.
        """
        return b"x" * self.size

    @property
    def chunk(self) -> int:
        """
        How many messages are published before a client lets its event loop turn.
        """
        return max(1, min(100, (1 << 20) // self.size))

    @property
    def address(self) -> SplitResult:
        """
        For the clients that do not take a URI.
        """
        return urlsplit(self.uri)

    @property
    def virtual_host(self) -> str:
        """
        The same.
        """
        return unquote(self.address.path[1:]) or "/"


class Meter:
    """
    The processor time, of user and system, that this process takes; the memory that
    it grows by; and, if the task wants that, how late its event loop is.

    With the name of a file in ``BENCH_PROFILE`` it also writes a profile of cProfile's
    there; what it measures then is mostly the profiler.
    """

    def __init__(
        self,
        task: Task,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        """
        :param call_later: has the event loop call a function in so many seconds.
        """
        self._call_later = call_later if task.lag else None
        if task.lag and call_later is None:
            _missing()
        self._due = 0.0
        self._late: list[float] = []
        self._profile_file = os.environ.get("BENCH_PROFILE")
        self._profile = cProfile.Profile() if self._profile_file else None

    def start(self) -> None:
        """
        From here on.
        """
        gc.collect()  # what came before is nobody's business
        self._resident = resident()
        if self._profile is not None:
            self._profile.enable()
        self._tick()
        self._wall = time.perf_counter()
        self._cpu = _cpu()

    def stop(self) -> None:
        """
        Until here.
        """
        cpu, self._cpu = self._cpu, _cpu()
        wall, self._wall = self._wall, time.perf_counter()
        self.grown = resident() - self._resident
        if self._call_later is not None:
            self._late.append(max(0.0, self._wall - self._due))
            self._call_later = None
        self.user = self._cpu[0] - cpu[0]
        self.system = self._cpu[1] - cpu[1]
        self.wall = self._wall - wall
        if self._profile is not None:
            self._profile.disable()
            self._profile.dump_stats(self._profile_file)

    def _tick(self) -> None:
        if self._call_later is not None:
            now = time.perf_counter()
            if self._due:
                self._late.append(now - self._due)
            self._due = now + _TICK
            self._call_later(_TICK, self._tick)

    def result(self) -> dict[str, Any]:
        """
        What was measured: in seconds, bytes, and (the lag) milliseconds.
        """
        late = sorted(each * 1e3 for each in self._late)
        return {
            "user": self.user,
            "system": self.system,
            "wall": self.wall,
            "peak": peak(),
            "grown": self.grown,
            "lag": [late[len(late) // 2], late[-1]] if late else None,
        }


def resident() -> int:
    """
    The memory that this process has now, in bytes.
    """
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def peak() -> int:
    """
    The most memory that this process has had, in bytes.  (What ``getrusage`` tells
    is the most that it had, or whoever started it.)
    """
    with open("/proc/self/status") as status:
        [line] = [line for line in status if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024


def _cpu() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime


def _missing() -> None:
    print(json.dumps({"missing": True}))
    raise SystemExit


def case_of(task: Task, cases: Mapping[str, Case]) -> Case:
    """
    The case that is asked for; without one, the script is over.
    """
    if task.case not in cases:
        _missing()
    return cases[task.case]


def report(meter: Meter, versions: Mapping[str, object]) -> None:
    """
    Write down what was measured, and with what versions of what.
    """
    texts = {name: str(version) for name, version in versions.items()}
    print(json.dumps(meter.result() | {"versions": texts}), flush=True)
