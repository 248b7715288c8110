"""
Tables, in reStructuredText, and plots, of what was measured.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import plots, users
from benchmarks.cases import (
    CASES,
    CLIENTS,
    LINK,
    OURS,
    RABBITMQ,
    SINK,
    C,
    Case,
    Run,
    cpu,
)

__all__ = ["to_json", "write"]

Results = dict[str, Any]

#: The values of each round, by peer, case and client.
Figures = dict[tuple[str, str, str], dict[int, float]]

#: The cases in which a message is what is counted.
MESSAGES = ("publish", "publish 1 KiB", "confirm", "consume", "ack", "get")
OTHERS = ("declare", "declare_pipelined", "publish 1 MiB", "consume 1 MiB", "connect")
BATCHES = {"publish": "publish_many", "confirm": "confirm_many"}


def to_json(results: Results) -> str:
    """
    The results, one measurement to a line.
    """
    lines = []
    for name, value in results.items():
        if isinstance(value, list) and value and not isinstance(value[0], float):
            rows = ",\n  ".join(json.dumps(_rounded(each)) for each in value)
            lines.append(f'"{name}": [\n  {rows}\n]')
        else:
            lines.append(f'"{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value


def write(results: Results, output: Path) -> str:
    """
    Write tables and plots into a folder.

    :returns: the tables.
    """
    pages = {"setup": list(setup(results))}
    if results.get("runs"):
        figures = figures_of(results["runs"])
        for peer in (RABBITMQ, SINK):
            if any(key[0] == peer for key in figures):
                pages[f"ratios-{peer}"] = list(ratios(figures, peer))
                pages[f"cpu-{peer}"] = list(matrix(figures, peer, MESSAGES))
                pages[f"others-{peer}"] = list(matrix(figures, peer, OTHERS))
                rates = figures_of(results["runs"], rate)
                pages[f"rates-{peer}"] = list(matrix(rates, peer, MESSAGES, "{:,.0f}"))
                draw_bars(figures, peer, output)
        pages["choices"] = list(choices(results["runs"], figures))
        pages["memory"] = list(memory_and_lag(results["runs"], figures))
    if results.get("users"):
        pages["workers"] = list(table(users.table(results["users"])))
        pages["publishers"] = list(
            table(users.table(results["users"], users.PUBLISHERS))
        )
    if results.get("layers"):
        pages["layers"] = list(
            table([["layer", "operation", "ns"]]
                  + [[where, what, f"{value:,.0f}"]
                     for where, what, value in results["layers"]])
        )  # fmt: skip
    if results.get("growth"):
        pages["growth"] = list(growth(results["growth"], output))
    for name, lines in pages.items():
        (output / f"{name}.inc").write_text("\n".join(lines) + "\n")
    return "\n".join(
        f"\n{name}\n{'-' * len(name)}\n\n" + "\n".join(lines)
        for name, lines in pages.items()
    )


def setup(results: Results) -> Iterator[str]:
    """
    When, where, and with what.
    """
    load = " to ".join(f"{each:.1f}" for each in results["load"])
    versions = ", ".join(f"{name} {each}" for name, each in results["versions"].items()
                         if name != "sink")  # fmt: skip
    yield (
        f"{results['date']}; {results['machine']}, load {load}; "
        f"{results['rounds']} rounds."
    )
    yield f"{versions}."


# -- the cases ------------------------------------------------------------------------


def rate(run: Run) -> float:
    """
    How many in a second of the clock.
    """
    return float(run["count"] / run["wall"])


def figures_of(runs: list[Run], figure: Any = None) -> Figures:
    """
    The values, by peer, case, client and round.
    """
    figures: Figures = defaultdict(dict)
    for run in runs:
        of = figure or CASES[run["case"]].figure
        figures[run["peer"], run["case"], run["client"]][run["round"]] = of(run)
    return figures


def show(values: dict[int, float], form: str = "") -> str:
    """
    The median, and the range in brackets.
    """
    if not values:
        return "\\-"
    ordered = sorted(values.values())
    form = form or ("{:.2f}" if ordered[0] < 10 else "{:,.0f}")
    middle, low, high = (
        form.format(each) for each in (median(ordered), ordered[0], ordered[-1])
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def matrix(
    figures: Figures, peer: str, cases: tuple[str, ...], form: str = ""
) -> Iterator[str]:
    """
    A row for each client, a column for each case.
    """
    rows = [["client", *cases]]
    for client in CLIENTS:
        cells = [show(figures.get((peer, case, client), {}), form) for case in cases]
        if set(cells) != {"\\-"}:
            rows.append([client, *cells])
        if client == OURS and "publish" in cases:
            cells = [
                show(figures.get((peer, BATCHES.get(case, ""), client), {}), form)
                for case in cases
            ]
            rows.append(["... publish_many", *cells])
    yield from table(rows)


def ratios(figures: Figures, peer: str) -> Iterator[str]:
    """
    How we stand: against C, against the target, against the best of the others.
    """
    rows = [
        ["case", OURS, "rabbitmq-c", "ratio to C", "target", "best Python peer",
         "ratio to it"]
    ]  # fmt: skip
    for case in CASES.values():
        ours = figures.get((peer, case.name, OURS))
        if not ours or case.figure is not cpu or case.choice:
            continue
        theirs = figures.get((peer, case.like or case.name, C), {})
        same = figures.get((peer, case.name, C), {}) or theirs
        target = f"{case.target:.1f}" if case.target else "\\-"
        name, best = best_peer(figures, peer, case)
        rows.append(
            [case.name, show(ours), show(same), show(divided(ours, same), "{:.2f}"),
             target, f"{show(best)} {name}", show(divided(ours, best), "{:.2f}")]
        )  # fmt: skip
    yield from table(rows)


def divided(ours: dict[int, float], theirs: dict[int, float]) -> dict[int, float]:
    """
    The ratios, each of two values of one round.
    """
    return {
        number: ours[number] / theirs[number] for number in ours if number in theirs
    }


def best_peer(figures: Figures, peer: str, case: Case) -> tuple[str, dict[int, float]]:
    """
    The best of the other clients in Python, and what it takes.
    """
    found: list[tuple[float, str, dict[int, float]]] = []
    for name in CLIENTS:
        if name != C and not name.startswith(OURS):
            values = figures.get((peer, case.name, name)) or figures.get(
                (peer, case.like, name), {}
            )
            if values:
                found.append((median(values.values()), name, values))
    return min(found)[1:] if found else ("", {})


def memory_and_lag(runs: list[Run], figures: Figures) -> Iterator[str]:
    """
    What is not processor time.
    """
    columns = {
        "KiB for a message kept": (SINK, "100,000 messages kept"),
        "KiB for an idle channel": (SINK, "10,000 idle channels"),
        "ms late, publishing": (RABBITMQ, "lag, publishing"),
        "ms late, consuming": (RABBITMQ, "lag, consuming"),
        "round trips for 100 declares": (LINK, "100 declares, 40 ms away"),
    }
    alone = (LINK, "100 declares, 40 ms away, one by one")
    peaks = figures_of(runs, lambda run: run["peak"] / 2**20)
    rows = [["client", *columns, "MiB at the most, consuming"]]
    for client in CLIENTS:
        cells = []
        for key in columns.values():
            values = figures.get((*key, client), {})
            if key[0] == LINK and not values:
                values = figures.get((*alone, client), {})
            cells.append(show(values, "{:.1f}"))
        cells.append(show(peaks.get((RABBITMQ, "consume", client), {}), "{:.0f}"))
        if set(cells) != {"\\-"}:
            rows.append([client, *cells])
    yield from table(rows)


def choices(runs: list[Run], figures: Figures) -> Iterator[str]:
    """
    What a user of ours chooses, and what it is worth.
    """
    rates = figures_of(runs, rate)
    rows = [["choice", "us of CPU for a message", "messages/s"]]
    for case in CASES.values():
        key = (RABBITMQ, case.name, OURS)
        if case.choice and key in figures:
            rows.append([case.choice, show(figures[key]), show(rates[key], "{:,.0f}")])
    yield from table(rows)


def draw_bars(figures: Figures, peer: str, output: Path) -> None:
    """
    The processor time of all clients in the main cases.
    """
    groups = []
    for case in ("publish", "confirm", "consume", "ack"):
        group = []
        batch = figures.get((peer, BATCHES.get(case, ""), OURS))
        for client in CLIENTS:
            values = figures.get((peer, case, client))
            if values:
                group.append((client, median(values.values())))
            if batch and client == OURS:
                group.append((f"{OURS}, a batch", median(batch.values())))
        if group:
            groups.append((case, group))
    if groups:
        against = "RabbitMQ" if peer == RABBITMQ else "the sink"
        title = f"CPU of the client, us for 128 bytes, {against} (logarithmic)"
        (output / f"cpu-{peer}.svg").write_text(plots.bars(title, groups, OURS))


# -- growth ---------------------------------------------------------------------------


def growth(growths: list[dict[str, Any]], output: Path) -> Iterator[str]:
    """
    A table for each thing that grows, and a plot.
    """
    for each in growths:
        points = each["points"]
        drawn = plots.lines(
            each["title"], points, each["lines"], each["unit"], zero=points[0] == 0
        )
        (output / f"growth-{each['name']}.svg").write_text(drawn)
        rows = [[each["title"], *(f"{point:,}" for point in points)]]
        rows += [
            [name, *(f"{row[0]:,.3g}" if row[0] else "\\-" for row in values)]
            for name, values in each["lines"].items()
        ]
        yield from table(rows)
        yield ""


def table(rows: list[list[str]]) -> Iterator[str]:
    """
    A table in reStructuredText.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    for number, row in enumerate(rows):
        if number < 2:
            yield rule
        line = "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        )
        yield line.rstrip()
    yield rule
