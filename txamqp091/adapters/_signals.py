# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking -*-
"""
Holding signals back, so that what their handlers raise does not come in the middle of a
connection's work.
"""

from __future__ import annotations

__all__ = ["blocked_signals", "hold_signals", "release_signals", "set_blocked"]

import signal
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

#: The signals whose handlers may raise something.
_HELD: set[int] = {
    int(getattr(signal, name))
    for name in ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGINT", "SIGPROF", "SIGTERM",
                 "SIGUSR1", "SIGUSR2", "SIGVTALRM")
    if hasattr(signal, name)
}  # fmt: skip


def _no_mask(how: int, signals: Iterable[int]) -> Iterable[int]:
    """
    Where signals cannot be held back.
    """
    return ()


_mask: Any = _no_mask
_BLOCK = _UNBLOCK = _SET = 0
if hasattr(signal, "pthread_sigmask"):
    _BLOCK, _UNBLOCK = signal.SIG_BLOCK, signal.SIG_UNBLOCK
    _SET = signal.SIG_SETMASK
    # The C function, if it is there.  The signal module makes an enum of each signal
    # that it returns, and costs five times as much: 10 us for each turn of a loop.
    _mask = getattr(sys.modules.get("_signal"), "pthread_sigmask", None)
    _mask = _mask or signal.pthread_sigmask

#: Tell which signals are blocked in this thread, for `set_blocked`.
blocked_signals = partial(_mask, _BLOCK, ())

#: Hold signals back in this thread.
hold_signals = partial(_mask, _BLOCK, _HELD)

#: Block these signals in this thread, and no others.  What was held back comes now.
set_blocked = partial(_mask, _SET)

#: Hold no signal back in this thread: a thread inherits that from the one that has
#: started it, and so does a process from a thread.
release_signals = partial(_mask, _UNBLOCK, _HELD)
