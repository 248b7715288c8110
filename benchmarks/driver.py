"""
Runs the clients, one process after the other, and makes the table.

A round is each case with each client, one after the other, so that whatever else the
machine does meets all of them alike.  What is compared is the client's processor
time; the broker's is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Task
from txamqp091.test.processes import free_ports, wait_for
from txamqp091.test.rabbit import RabbitNode, speaks_amqp

__all__ = ["main"]

CHECKOUT = Path(__file__).resolve().parent.parent
CLIENTS = ["txamqp091_twisted", "pika_select", "pika_twisted", "pika_blocking"]
OURS = CLIENTS[0]
CONSUMING = {"consume", "ack"}

#: The cases, and which of the other clients' cases each is compared with.
CASES = {
    "publish": "publish",
    "publish_many": "publish",
    "confirm": "confirm",
    "confirm_many": "confirm",
    "consume": "consume",
    "ack": "ack",
}


@dataclass(frozen=True)
class Result:
    """
    What one process said.
    """

    count: int
    data: dict[str, Any]

    @property
    def cpu(self) -> float:
        """
        Processor time for a message, in microseconds.
        """
        return (self.data["user"] + self.data["system"]) / self.count * 1e6

    @property
    def rate(self) -> float:
        """
        Messages in a second of the clock.
        """
        return float(self.count / self.data["wall"])


Results = dict[tuple[str, str], list[Result]]


def main() -> None:
    """
    Measure, and print the table.
    """
    options = parse()
    results: Results = defaultdict(list)
    with peer(options) as uri:
        for number in range(options.rounds):
            for case in options.cases:
                for client in options.clients:
                    progress(f"round {number + 1}: {case}, {client}")
                    data = measure(client, case, uri, options)
                    if "missing" not in data:
                        results[case, client].append(Result(options.count, data))
    progress("")
    if options.json:
        options.json.write_text(
            "".join(
                json.dumps({"case": case, "client": client} | each.data) + "\n"
                for (case, client), group in results.items()
                for each in group
            )
        )
    print("\n".join(summary(results, options)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="how often (5)")
    add("--count", type=int, default=30000, help="messages in a case (30000)")
    add("--size", type=int, default=128, help="bytes in a message (128)")
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--clients", nargs="+", choices=CLIENTS, default=CLIENTS)
    add("--sink", action="store_true", help="against our sink, without a broker")
    add("--json", type=Path, help="a file for the single results")
    return parser.parse_args()


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# -- measuring ------------------------------------------------------------------------


@contextlib.contextmanager
def peer(options: argparse.Namespace) -> Iterator[str]:
    """
    Whom the clients talk to: a sink, the broker of ``AMQP_URI``, or a RabbitMQ of
    our own.
    """
    if options.sink:
        with sink(options) as port:
            yield f"amqp://guest:guest@127.0.0.1:{port}/%2F"
    elif "AMQP_URI" in os.environ:
        yield os.environ["AMQP_URI"]
    else:
        with RabbitNode() as node:
            yield f"amqp://guest:guest@{node.host}:{node.port}/%2F"


@contextlib.contextmanager
def sink(options: argparse.Namespace) -> Iterator[int]:
    [port] = free_ports(1)
    arguments = [str(port), str(options.count), str(options.size)]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink", *arguments], cwd=CHECKOUT
    ) as process:
        try:
            if not wait_for(lambda: speaks_amqp(port), 10):
                raise SystemExit("the sink did not start")
            yield port
        finally:
            process.terminate()


def measure(
    client: str, case: str, uri: str, options: argparse.Namespace
) -> dict[str, Any]:
    """
    Run one case with one client.
    """
    task = Task(uri, "txamqp091-bench", case, options.count, options.size)
    if not options.sink:
        prepare = Task(uri, task.queue, "prepare", 0, options.size)
        if case in CONSUMING:
            prepare = Task(uri, task.queue, "prepare", options.count, options.size)
        run("benchmarks.prepare", prepare)
    return run(f"benchmarks.clients.{client}", task)


def run(module: str, task: Task) -> dict[str, Any]:
    """
    Run a script.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, task.to_argument()],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode or not done.stdout:
        raise SystemExit(f"{module} failed with {task}\n{done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# -- showing --------------------------------------------------------------------------


def summary(results: Results, options: argparse.Namespace) -> Iterator[str]:
    """
    The table, and what it is about.
    """
    versions: dict[str, str] = {"Python": platform.python_version()}
    for group in results.values():
        for each in group:
            versions |= each.data["versions"]
    broker = versions.pop("broker", "of unknown version")
    against = "our sink" if options.sink else f"RabbitMQ {broker}"
    yield f"{machine()}, against {against}."
    yield ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    yield (
        f"{options.count} messages of {options.size} bytes, {options.rounds} rounds: "
        "the median [and the range]."
    )
    yield ""
    rows = [["case", "client", "us of CPU a message", "messages/s", "of pika's best"]]
    for case, peers_case in CASES.items():
        best = best_of_peers(results, peers_case)
        for client in CLIENTS:
            group = results.get((case, client))
            if group:
                rows.append([case, client, *cells(group, best)])
    yield from simple_table(rows)


def best_of_peers(results: Results, case: str) -> float | None:
    medians = [
        median(each.cpu for each in group)
        for (its_case, client), group in results.items()
        if its_case == case and client != OURS
    ]
    return min(medians, default=None)


def cells(group: list[Result], best: float | None) -> list[str]:
    cpu = sorted(each.cpu for each in group)
    ratio = f"{median(cpu) / best:.2f}" if best else "\\-"
    rate = median(each.rate for each in group)
    return [
        f"{median(cpu):.1f} [{cpu[0]:.1f} to {cpu[-1]:.1f}]",
        f"{rate:,.0f}",
        ratio,
    ]


def simple_table(rows: list[list[str]]) -> Iterator[str]:
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


def machine() -> str:
    """
    What this runs on.
    """
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{os.cpu_count()} cores of {model}, {platform.system()}"
