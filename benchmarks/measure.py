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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

__all__ = ["CHUNK", "Meter", "Task", "case_of", "report"]

Case = TypeVar("Case")

#: How many messages are published before a client lets its event loop turn.
CHUNK = 100


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
    """

    uri: str
    queue: str
    case: str
    count: int
    size: int = 128
    window: int = 1000
    prefetch: int = 200

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


class Meter:
    """
    The processor time, of user and system, that this process takes.

    With the name of a file in ``BENCH_PROFILE`` it also writes a profile of cProfile's
    there; what it measures then is mostly the profiler.
    """

    def __init__(self) -> None:
        self._profile_file = os.environ.get("BENCH_PROFILE")
        self._profile = cProfile.Profile() if self._profile_file else None

    def start(self) -> None:
        """
        From here on.
        """
        gc.collect()  # what came before is nobody's business
        if self._profile is not None:
            self._profile.enable()
        self._wall = time.perf_counter()
        self._cpu = _cpu()

    def stop(self) -> None:
        """
        Until here.
        """
        cpu, self._cpu = self._cpu, _cpu()
        wall, self._wall = self._wall, time.perf_counter()
        self.user = self._cpu[0] - cpu[0]
        self.system = self._cpu[1] - cpu[1]
        self.wall = self._wall - wall
        if self._profile is not None:
            self._profile.disable()
            self._profile.dump_stats(self._profile_file)


def _cpu() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime


def case_of(task: Task, cases: Mapping[str, Case]) -> Case:
    """
    The case that is asked for; without one, the script is over.
    """
    if task.case not in cases:
        print(json.dumps({"missing": True}))
        raise SystemExit
    return cases[task.case]


def report(meter: Meter, versions: Mapping[str, object]) -> None:
    """
    Write down what was measured, and with what versions of what.
    """
    result = {
        "user": meter.user,
        "system": meter.system,
        "wall": meter.wall,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "versions": {name: str(version) for name, version in versions.items()},
    }
    print(json.dumps(result), flush=True)
