"""
How the demo shows itself: in plain lines, one a second; or, on a terminal, as a panel
that is drawn anew, below what has happened so far.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import TextIO


@dataclass
class Figures:
    """
    How far the demo is.

    :ivar seconds: for how long it has been going on, ...
    :ivar of: ... of how many.
    :ivar open: how many orders are under way.
    :ivar delays: how many seconds orders took to arrive, since the last time, sorted.
    """

    seconds: float
    of: float
    sent: int
    received: int
    confirmed: int
    open: int
    dead: int
    delays: list[float]

    @property
    def percentiles(self) -> tuple[str, str, str]:
        """
        The median of the delays, and what 95 and 99 of 100 stay below: milliseconds.
        """
        if not self.delays:
            return "-", "-", "-"
        last = len(self.delays) - 1
        p50, p95, p99 = (
            f"{self.delays[round(last * part)] * 1000:.1f}"
            for part in (0.50, 0.95, 0.99)
        )
        return p50, p95, p99


class Display:
    """
    Plain lines.

    :ivar interval: how often to `show`, in seconds.
    """

    interval = 1.0

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._before: Figures | None = None

    def say(self, topic: str, text: str) -> None:
        """
        Print a line.
        """
        print(f"{topic:<10} {text}", file=self._file, flush=True)

    def event(self, seconds: float, topic: str, text: str) -> None:
        """
        Say what has happened.
        """
        self.say(f"{seconds:5.1f} s", f"{topic} {text}")

    def show(self, figures: Figures) -> None:
        """
        Show how far it is.
        """
        sent, received = self.rates(figures)
        self.say(
            f"{figures.seconds:5.1f} s",
            f"sent {sent:4.0f}/s  received {received:4.0f}/s  "
            f"confirmed {figures.confirmed:5}  in flight {figures.open:3}  "
            f"p50/p95/p99 {'/'.join(figures.percentiles)} ms",
        )

    def rates(self, figures: Figures) -> tuple[float, float]:
        """
        How many a second were sent and received since the last time.
        """
        before = self._before or Figures(0, 0, 0, 0, 0, 0, 0, [])
        self._before = figures
        seconds = max(figures.seconds - before.seconds, 0.001)
        return (
            (figures.sent - before.sent) / seconds,
            (figures.received - before.received) / seconds,
        )

    def end(self, figures: Figures) -> None:
        """
        Nothing more will come.
        """


class Panel(Display):
    """
    A panel on a terminal.
    """

    interval = 0.2
    WIDTH = 40

    def __init__(self, file: TextIO) -> None:
        super().__init__(file)
        self._lines: list[str] = []
        self._history: deque[float] = deque(maxlen=self.WIDTH)
        levels = " ▁▂▃▄▅▆▇█"
        try:
            levels.encode(file.encoding or "ascii")
        except UnicodeError:
            levels = " .:-=+*#@"
        self._levels = levels

    def say(self, topic: str, text: str) -> None:
        """
        Print a line above the panel.
        """
        self._erase()
        super().say(f"\033[1m{topic:<10}\033[0m", text)
        self._draw()

    def show(self, figures: Figures) -> None:
        """
        Draw the panel anew.
        """
        sent, received = self.rates(figures)
        self._history.append(received)
        most = max(*self._history, 1)
        steps = len(self._levels) - 1
        curve = "".join(
            self._levels[round(each / most * steps)] for each in self._history
        )
        done = min(round(figures.seconds / figures.of * self.WIDTH), self.WIDTH)
        p50, p95, p99 = figures.percentiles
        self._erase()
        self._lines = [
            f"[{'=' * done}{' ' * (self.WIDTH - done)}] {figures.seconds:4.1f} s",
            f"sent      {figures.sent:7}   {sent:6.0f}/s",
            f"received  {figures.received:7}   {received:6.0f}/s   {curve}",
            f"confirmed {figures.confirmed:7}   in flight {figures.open}",
            f"dead      {figures.dead:7}   p50 {p50}  p95 {p95}  p99 {p99} ms",
        ]
        self._draw()

    def end(self, figures: Figures) -> None:
        """
        Draw the panel for the last time, and leave it there.
        """
        self.show(figures)
        self._lines = []

    def _erase(self) -> None:
        if self._lines:
            # Up to the panel's first line, and away with all from there.
            self._file.write(f"\033[{len(self._lines)}F\033[J")

    def _draw(self) -> None:
        for line in self._lines:
            self._file.write(f"{line}\n")
        self._file.flush()


def choose_display(file: TextIO) -> Display:
    """
    The display that is right for a file.
    """
    dumb = os.environ.get("TERM", "dumb") == "dumb" or "NO_COLOR" in os.environ
    return Display(file) if dumb or not file.isatty() else Panel(file)
