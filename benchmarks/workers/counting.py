"""
Counts the messages of a worker or a publisher, and reports what they took.

``BENCH_COUNT`` is how many there are, ``BENCH_BEGUN`` when the process was started, and
``BENCH_REPORT`` the file for the report.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

__all__ = ["COUNT", "PAYLOAD", "done"]

#: What a message says.
PAYLOAD = {"key": 1, "text": "x" * 272}

COUNT = int(os.environ["BENCH_COUNT"])
#: The messages that are not measured: the interpreter learns from them.
WARM_UP = COUNT // 15

_seen = 0
_report = {"count": COUNT - WARM_UP}


def done(message: object) -> None:
    """
    A message was handled, or is confirmed.

    :param message: what its body says, decoded.
    """
    global _seen
    assert isinstance(message, dict) and message["key"] == 1
    _seen += 1
    if _seen == 1:
        _report["start"] = time.time() - float(os.environ["BENCH_BEGUN"])
    if _seen == WARM_UP:
        _report["cpu"] = -time.process_time()
        _report["wall"] = -time.monotonic()
    if _seen == COUNT:
        _report["cpu"] += time.process_time()
        _report["wall"] += time.monotonic()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        _report["resident"] = pages * os.sysconf("SC_PAGE_SIZE")
        path = Path(os.environ["BENCH_REPORT"])
        path.with_suffix(".part").write_text(json.dumps(_report))
        path.with_suffix(".part").rename(path)
