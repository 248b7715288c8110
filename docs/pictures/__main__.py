"""
The pictures of the documentation, as SVG.

``python docs/pictures`` draws the diagrams; ``python docs/pictures demo`` also runs the
demo, and draws what it prints.  The background is opaque, so that the text can be read
on light and dark pages.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DEMO = FOLDER.parent / "examples" / "demo.py"

_FILLS = {
    "program": ("#e3f0ff", "#1f5fa8"),
    "broker": ("#fff1dc", "#a85b00"),
    "dead": ("#fde3e3", "#a32020"),
    "good": ("#e2f5e4", "#1f7a33"),
}


_MONOSPACED = "DejaVu Sans Mono, Menlo, Consolas, monospace"


def _opening(title: str, width: int, height: int, font: str) -> Iterator[str]:
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    yield f'font-family="{font}" font-size="13" fill="#222">'
    yield f"<title>{escape(title)}</title>"


class Drawing:
    """
    Boxes and arrows.

    :ivar title: what a screen reader says.
    """

    def __init__(self, title: str, width: int, height: int) -> None:
        self.title = title
        self._size = (width, height)
        self._shapes: list[str] = []

    def box(self, kind: str, x: int, y: int, *lines: str, width: int = 150) -> None:
        """
        Draw a box around a centre, the first line in bold.
        """
        fill, stroke = _FILLS[kind]
        height = 18 + 17 * len(lines)
        top = y - height // 2
        self._shapes.append(
            f'<rect x="{x - width // 2}" y="{top}" width="{width}" height="{height}" '
            f'rx="6" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
        )
        for number, line in enumerate(lines):
            weight = ' font-weight="bold"' if number == 0 else ""
            self._text(x, top + 21 + 17 * number, line, f'text-anchor="middle"{weight}')

    def arrow(
        self, points: Sequence[tuple[int, int]], text: str = "", *, at: tuple[int, int]
    ) -> None:
        """
        Draw an arrow along points, with a text that begins at another one.
        """
        path = " ".join(f"{x},{y}" for x, y in points)
        self._shapes.append(
            f'<polyline points="{path}" fill="none" stroke="#555" stroke-width="1.5" '
            'marker-end="url(#head)"/>'
        )
        if text:
            self._text(*at, text, 'font-size="12" fill="#444"')

    def svg(self) -> str:
        """
        The file.
        """
        width, height = self._size
        head = (
            '<marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" '
            'orient="auto"><path d="M0,0 L9,4 L0,8 z" fill="#555"/></marker>'
        )
        return "\n".join(
            [
                *_opening(self.title, width, height, "sans-serif"),
                f"<defs>{head}</defs>",
                f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
                *self._shapes,
                "</svg>\n",
            ]
        )

    def _text(self, x: int, y: int, text: str, attributes: str) -> None:
        self._shapes.append(f'<text x="{x}" y="{y}" {attributes}>{escape(text)}</text>')


def retries() -> Drawing:
    """
    The queues of a consumer with retries.
    """
    drawing = Drawing("Retry, delay and dead-letter queues", 820, 330)
    drawing.box("program", 90, 80, "your publisher")
    drawing.box("broker", 330, 80, "orders", "the queue")
    drawing.box("program", 600, 80, "daemon", "calls your handler", width=170)
    drawing.box("good", 755, 200, "acknowledged", width=115)
    drawing.box("broker", 560, 200, "orders.retry.30s", "a delay queue")
    drawing.box("broker", 330, 200, "orders.retry", "an exchange")
    drawing.box(
        "dead", 655, 295, "orders.dead", "dead letters, with the error", width=200
    )
    drawing.arrow([(165, 80), (253, 80)], "publish", at=(180, 72))
    drawing.arrow([(405, 80), (513, 80)], "deliver", at=(438, 72))
    drawing.arrow([(685, 80), (755, 80), (755, 181)], "success", at=(700, 72))
    drawing.arrow([(560, 107), (560, 172)], "failure: publish, then ack", at=(405, 135))
    drawing.arrow([(485, 200), (407, 200)], "after 30 s", at=(418, 192))
    drawing.arrow([(330, 174), (330, 108)], "back", at=(336, 146))
    drawing.arrow([(655, 107), (655, 267)], "after the last attempt", at=(662, 250))
    return drawing


def message() -> Drawing:
    """
    The way of a delivery and of its acknowledgement.
    """
    drawing = Drawing("The path of a message", 850, 230)
    rooms = [
        ("program", "AMQPProtocol", "dataReceived"),
        ("program", "ConnectionMachine", "cuts frames"),
        ("program", "ChannelMachine", "finds the consumer"),
        ("program", "Consumer", "makes the Delivery"),
        ("good", "your handler", "delivery.ack()"),
    ]
    for number, (kind, *lines) in enumerate(rooms):
        x = 92 + 166 * number
        drawing.box(kind, x, 70, *lines, width=150)
        if number:
            drawing.arrow([(x - 91, 70), (x - 77, 70)], at=(0, 0))
    drawing.box("broker", 88, 180, "RabbitMQ")
    drawing.arrow([(70, 162), (70, 98)], "bytes", at=(30, 135))
    text = "basic.ack: all frames of one turn of the reactor are one write"
    drawing.arrow([(756, 97), (756, 180), (165, 180)], text, at=(240, 172))
    return drawing


def recovery() -> Drawing:
    """
    What a service does after a lost connection.
    """
    drawing = Drawing("What AMQPClientService does after a lost connection", 820, 250)
    drawing.box("dead", 95, 60, "connection lost", "reset, heartbeat, close", width=160)
    drawing.box(
        "program", 285, 60, "wait", "0.5 s, then doubled", "to 10 s, with jitter"
    )
    drawing.box("program", 480, 60, "connect", "the next address,", "TLS, login")
    drawing.box("program", 690, 60, "topology", "exchanges, queues,", "bindings")
    drawing.box("program", 690, 190, "channels", "confirms, prefetch")
    drawing.box("program", 480, 190, "consumers", "subscribe again")
    drawing.box("program", 285, 190, "publishers", "send what has", "no confirm")
    drawing.box("good", 95, 190, "working again")
    drawing.arrow([(175, 60), (208, 60)], at=(0, 0))
    drawing.arrow([(360, 60), (403, 60)], at=(0, 0))
    drawing.arrow([(555, 60), (613, 60)], at=(0, 0))
    failed = [(480, 95), (480, 122), (285, 122), (285, 97)]
    drawing.arrow(failed, "failed: try again", at=(330, 140))
    drawing.arrow([(690, 95), (690, 161)], at=(0, 0))
    drawing.arrow([(613, 190), (557, 190)], at=(0, 0))
    drawing.arrow([(403, 190), (362, 190)], at=(0, 0))
    drawing.arrow([(208, 190), (172, 190)], at=(0, 0))
    return drawing


def terminal(lines: Sequence[str]) -> str:
    """
    What a program has printed, as in a terminal.
    """
    width, height = 26 + 8 * max(map(len, lines)), 58 + 18 * len(lines)
    return "\n".join(
        [
            *_opening("The output of make demo", width, height, _MONOSPACED),
            f'<rect width="{width}" height="{height}" rx="8" fill="#16181d"/>',
            *(
                f'<circle cx="{18 + 18 * number}" cy="17" r="5" fill="{colour}"/>'
                for number, colour in enumerate(("#e0605e", "#dfa93f", "#5aa85a"))
            ),
            *_terminal_lines(lines),
            "</svg>\n",
        ]
    )


def _terminal_lines(lines: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(["$ make demo", *lines]):
        colour = "#d8dee9"
        if "poison" in line or "plug pulled" in line:
            colour = "#f2a65a"
        elif "back after" in line or line.startswith(("balance", "$")):
            colour = "#8fd18f"
        yield (
            f'<text x="13" y="{45 + 18 * number}" fill="{colour}" textLength="'
            f'{8 * len(line)}" xml:space="preserve">{escape(line)}</text>'
        )


def run_demo() -> list[str]:
    """
    What the demo prints.
    """
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env={**os.environ, "URI": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()


def draw(folder: Path) -> None:
    """
    Write the diagrams.
    """
    for drawing in (retries, message, recovery):
        (folder / f"{drawing.__name__}.svg").write_text(drawing().svg())


if __name__ == "__main__":
    draw(FOLDER)
    if sys.argv[1:] == ["demo"]:
        (FOLDER / "demo.svg").write_text(terminal(run_demo()))
