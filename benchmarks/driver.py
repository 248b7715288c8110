"""
Runs the clients, one process after the other, and keeps what they report.

A round is each case with each client, one after the other, so that whatever else the
machine does meets all of them alike.  What is compared is the client's processor
time; the broker's is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks import growth, layers, pages, users
from benchmarks.cases import (
    BEFORE,
    CASES,
    CLIENTS,
    LINK,
    OURS,
    RABBITMQ,
    ROUND_TRIP,
    SINK,
    C,
    Case,
    Client,
    Run,
)
from benchmarks.measure import Task
from txamqp091.test.support.processes import free_ports, wait_for
from txamqp091.test.support.rabbit import RabbitNode, speaks_amqp

__all__ = ["main"]

CHECKOUT = Path(__file__).resolve().parent.parent
PARTS = ("cases", "users", "layers", "growth")


def main() -> None:
    """
    Measure, write tables and plots, and print the tables.
    """
    options = parse()
    if options.show:
        results = json.loads(options.show.read_text())
    else:
        results = measure_all(options)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(pages.to_json(results))
    print(pages.write(results, options.output))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a tenth of the work, once: a first look")
    add("--rounds", type=int, default=0, help="how often (5)")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    add("--against", nargs="+", choices=(RABBITMQ, SINK, LINK),
        default=[RABBITMQ, SINK, LINK],
        help="RabbitMQ, our sink, or our sink behind a link of 40 ms")  # fmt: skip
    add("--before", type=Path, metavar="CHECKOUT",
        help="another checkout of this client, to be measured as well")  # fmt: skip
    add("--output", type=Path, help="where tables and plots go (docs/performance, "
        "or build/bench if not all is measured)")  # fmt: skip
    add("--show", type=Path, metavar="JSON", help="measure nothing, show these results")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    if options.output is None:
        whole = not options.quick and all(
            getattr(options, name) == parser.get_default(name)
            for name in ("parts", "cases", "clients", "against")
        )
        options.output = CHECKOUT / ("docs/performance" if whole else "build/bench")
    return options


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load": [os.getloadavg()[0]],
        "rounds": options.rounds,
        "versions": {"Python": platform.python_version()},
    }
    if "cases" in options.parts:
        results["runs"] = measure_cases(options, results["versions"])
    if "users" in options.parts:
        progress("users")
        results["users"] = measure_users(options)
    if "layers" in options.parts:
        progress("layers")
        results["layers"] = layers.measure(3 if options.quick else 9)
    if "growth" in options.parts:
        progress("growth")
        with sink() as port:
            results["growth"] = growth.measure(port, options.rounds, options.quick)
    progress("")
    results["load"].append(os.getloadavg()[0])
    return results


def measure_users(options: argparse.Namespace) -> list[Run]:
    """
    All rounds of whole workers, against a RabbitMQ.
    """
    workers = [*users.WORKERS, *users.PUBLISHERS]
    if options.before is not None:
        workers += users.all_ours(options.before.resolve(), " before")
    count = users.COUNT // 10 if options.quick else users.COUNT
    with peer(RABBITMQ) as rabbitmq:
        return users.measure(rabbitmq.uri, workers, options.rounds, count)


# -- the cases ------------------------------------------------------------------------


@dataclass
class Peer:
    """
    Whom the clients talk to.

    :ivar preparer: the process that makes the queues, if there are queues.
    """

    name: str
    uri: str
    preparer: subprocess.Popen[str] | None = None

    def prepare(self, task: Task, count: int) -> None:
        """
        Make the queue of a task, with so many messages.
        """
        if self.preparer is None:
            return
        ask, answer = self.preparer.stdin, self.preparer.stdout
        assert ask is not None and answer is not None
        wanted = Task(task.uri, task.queue, "prepare", count, task.size)
        ask.write(wanted.to_argument() + "\n")
        ask.flush()
        if not answer.readline():
            raise SystemExit("the queue could not be made")


def measure_cases(options: argparse.Namespace, versions: dict[str, str]) -> list[Run]:
    """
    All rounds of all cases, with all clients, against all peers.
    """
    clients = [CLIENTS[name] for name in options.clients]
    if options.before is not None:
        before = options.before.resolve()
        clients.append(Client(BEFORE, CLIENTS[OURS].module, 1, before))
    program = build() if CLIENTS[C] in clients else None
    if program is None:
        clients = [client for client in clients if client.name != C]
    runs: list[Run] = []
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(peer(name)) for name in options.against]
        for number in range(options.rounds):
            for name in options.cases:
                case = CASES[name]
                if case.once and number:
                    continue
                for each in peers:
                    if each.name not in case.peers:
                        continue
                    for client in clients:
                        progress(f"{number + 1}: {case.name}, {client.name}")
                        run = measure(client, case, each, options.quick, program)
                        if run is not None:
                            versions.update(run.pop("versions"))
                            run["round"] = number
                            runs.append(run)
    return runs


def measure(
    client: Client, case: Case, peer: Peer, quick: bool, program: Path | None
) -> Run | None:
    """
    Run one case with one client.
    """
    count = case.count
    if case.choice and client.name not in (OURS, BEFORE):
        return None
    if not case.once:
        count = max(20, int(count * client.share * (0.1 if quick else 1)) // 100 * 100)
    if client.name == "AMQPStorm" and case.function in ("get", "declare", "connect"):
        count = min(count, 50)  # it sleeps for 10 ms between asking and looking
    queue = f"bench-{count}-{case.size}"
    task = Task(
        peer.uri, queue, case.function, count, case.size, case.window, case.prefetch,
        case.lag,
    )  # fmt: skip
    peer.prepare(task, count if case.full else 0)
    if client.name == C:
        if case.lag:
            return None
        command = [str(program), *c_arguments(task)]
    else:
        module = f"benchmarks.clients.{client.module}"
        command = [sys.executable, "-m", module, task.to_argument()]
    done = None
    try:
        done = subprocess.run(
            command,
            cwd=client.checkout or CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        run: Run = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        # One gap in a table is better than none of it.
        print(f"{client.name} failed: {task}", error, file=sys.stderr)
        print(done.stderr if done else "", file=sys.stderr)
        return None
    if "missing" in run:
        return None
    return run | {
        "peer": peer.name,
        "case": case.name,
        "client": client.name,
        "count": count,
    }


def build() -> Path | None:
    """
    Compile the client in C, if its library is here.
    """
    source = CHECKOUT / "benchmarks" / "clients" / "rabbitmqc.c"
    program = CHECKOUT / "build" / "bench" / "rabbitmqc"
    program.parent.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc")
    if compiler is not None:
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(source), "-lrabbitmq"],
            capture_output=True,
        )
        if not done.returncode:
            return program
    print("rabbitmq-c is left out: install librabbitmq-dev and gcc.", file=sys.stderr)
    return None


def c_arguments(task: Task) -> list[str]:
    address = task.address
    return [
        str(each)
        for each in (
            address.hostname, address.port, address.username, address.password,
            task.virtual_host, task.queue, task.case, task.count, task.size,
            task.window, task.prefetch,
        )
    ]  # fmt: skip


# -- whom the clients talk to ----------------------------------------------------------


@contextlib.contextmanager
def peer(name: str) -> Iterator[Peer]:
    """
    The broker of ``AMQP_URI`` or a RabbitMQ of our own; or a sink.
    """
    if name != RABBITMQ:
        with sink(ROUND_TRIP if name == LINK else 0.0) as port:
            yield Peer(name, local(port))
    elif "AMQP_URI" in os.environ:
        with preparer(os.environ["AMQP_URI"]) as process:
            yield Peer(name, os.environ["AMQP_URI"], process)
    else:
        with (
            RabbitNode(configuration={"channel_max": 0}) as node,
            preparer(local(node.port)) as process,
        ):
            yield Peer(name, local(node.port), process)


def local(port: int) -> str:
    return f"amqp://guest:guest@127.0.0.1:{port}/%2F?channel_max=65535"


@contextlib.contextmanager
def preparer(uri: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.prepare", uri],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            close(process.stdin)
            process.wait(30)


def close(file: IO[str] | None) -> None:
    if file is not None:
        file.close()


@contextlib.contextmanager
def sink(delay: float = 0.0) -> Iterator[int]:
    """
    A peer that does nothing, in a process of its own.
    """
    [port] = free_ports(1)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink", str(port), str(delay)], cwd=CHECKOUT
    ) as process:
        try:
            if not wait_for(lambda: speaks_amqp(port), 10):
                raise SystemExit("the sink did not start")
            yield port
        finally:
            process.terminate()


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
