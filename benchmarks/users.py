"""
What users run: whole workers and publishers.  ``python -m benchmarks.users``.

A worker is a process, started as its framework says, on a queue of persistent messages
of 300 bytes of JSON; the prefetch is 100, the handler decodes the message, looks at one
key, and is done, and the message is acknowledged.  Measured are the processor time of
the process between the first fifteenth of the messages and the last, the time from the
start of the process to its first message, and the memory that it has in the end.  A
round has each worker once, so that whatever else the machine does meets all alike.

A publisher sends such messages with confirms, a hundred at a time, or one by one where
its library has no other way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from txamqp091.adapters import blocking
from txamqp091.message import Message
from txamqp091.test.support.rabbit import RabbitNode
from txamqp091.wire.properties import Properties

__all__ = ["PUBLISHERS", "WORKERS", "Worker", "all_ours", "measure", "table"]

CHECKOUT = Path(__file__).resolve().parent.parent
SCRIPTS = CHECKOUT / "benchmarks" / "workers"

COUNT = 15000

#: The virtual host, for frameworks that do not know ``/`` by itself.
QUEUE = "bench-users"

PAYLOAD = {"key": 1, "text": "x" * 272}

#: The body of a message and its properties.
Content = tuple[bytes, Properties]


def plain() -> Content:
    """
    A message of JSON.
    """
    return json.dumps(PAYLOAD).encode(), Properties(
        content_type="application/json", content_encoding="utf-8", delivery_mode=2
    )


def for_dramatiq() -> Content:
    """
    A message for an actor.
    """
    message = {
        "queue_name": QUEUE,
        "actor_name": "work",
        "args": [PAYLOAD],
        "kwargs": {},
        "options": {},
        "message_id": str(uuid4()),
        "message_timestamp": int(time.time() * 1000),
    }
    return json.dumps(message).encode(), Properties(priority=0, delivery_mode=2)


def for_celery() -> Content:
    """
    A message for a task.
    """
    number = str(uuid4())
    headers = {"lang": "py", "task": "work", "id": number, "root_id": number}
    body = [[PAYLOAD], {}, {}]
    return json.dumps(body).encode(), Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        correlation_id=number,
        delivery_mode=2,
    )


@dataclass(frozen=True)
class Worker:
    """
    A worker.

    :ivar name: what tables call it.
    :ivar command: how it is started, behind the interpreter.
    :ivar share: the part of the messages that it gets: slow ones get fewer.
    :ivar content: makes a message for it.
    :ivar arguments: what it declares its queue with.
    :ivar settings: settings of our daemon, in TOML.
    :ivar checkout: where our client is.
    :ivar fills: whether there are messages in its queue.
    """

    name: str
    command: tuple[str, ...]
    share: float = 1.0
    content: Callable[[], Content] = plain
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: str = ""
    checkout: Path = CHECKOUT
    fills: bool = True

    @property
    def python(self) -> str:
        """
        The interpreter that has our client.
        """
        own = self.checkout / ".venv" / "bin" / "python"
        return str(own) if own.exists() else sys.executable


def all_ours(checkout: Path, suffix: str) -> list[Worker]:
    """
    The workers and the publishers of a checkout of our client.
    """
    return [*ours(checkout, suffix), *our_publishers(checkout, suffix)]


def _script(name: str) -> tuple[str, ...]:
    return (str(SCRIPTS / f"{name}.py"),)


def ours(checkout: Path = CHECKOUT, suffix: str = "") -> list[Worker]:
    """
    The workers of a checkout of our client.
    """
    twistd = "from twisted.scripts.twistd import run; run()"
    daemon = ("-c", twistd, "--pidfile=", "-n", "amqp-consumer")
    settings = (
        f'[log]\nlevel = "warn"\n[[consumers]]\nqueue = "{QUEUE}"\non_error = "halt"\n'
    )
    return [
        Worker(f"daemon{suffix}", daemon, checkout=checkout,
               settings=settings + 'handler = "handlers:plain"\n'),
        Worker(f"daemon, coroutine{suffix}", daemon, checkout=checkout,
               settings=settings + 'handler = "handlers:coroutine"\n'),
        Worker(f"daemon, in threads{suffix}", daemon, checkout=checkout,
               settings=settings + 'handler = "handlers:plain"\nin_thread = true\n'),
        Worker(f"basic_consume{suffix}", _script("raw"), checkout=checkout),
    ]  # fmt: skip


def our_publishers(checkout: Path = CHECKOUT, suffix: str = "") -> list[Worker]:
    """
    The publishers of a checkout of our client.
    """
    return [
        Worker(f"service Publisher{suffix}", _script("service_publisher"),
               checkout=checkout, fills=False),
        Worker(f"basic_publish{suffix}", _script("raw_publisher"),
               checkout=checkout, fills=False),
    ]  # fmt: skip


PUBLISHERS = [
    *our_publishers(),
    Worker("aio-pika, publishing", _script("aio_pika_publisher"), 0.2, fills=False),
    Worker("kombu, publishing", _script("kombu_publisher"), 0.2, fills=False),
]

WORKERS = [
    *ours(),
    Worker("pika select, by hand", _script("pika_worker"), 0.4),
    Worker("kombu", _script("kombu_worker"), 0.2),
    Worker("aio-pika", _script("aio_pika_worker"), 0.2),
    Worker(
        "dramatiq",
        _script("dramatiq_worker"),
        0.2,
        for_dramatiq,
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": QUEUE + ".XQ"},
    ),
    Worker("FastStream", _script("faststream_worker"), 0.2),
    Worker("Celery, solo", _script("celery_worker"), 0.2, for_celery),
]


def fill(uri: str, worker: Worker, count: int) -> None:
    """
    Make the queue of a worker.
    """
    with blocking.BlockingConnection(uri) as connection:
        channel = connection.channel()
        channel.confirm_select()
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True, arguments=dict(worker.arguments))
        if not count:
            return
        contents = (worker.content() for _ in range(count))
        channel.publish_many(
            Message("", QUEUE, body, properties) for body, properties in contents
        )


def run(uri: str, worker: Worker, count: int) -> dict[str, Any] | None:
    """
    Run a worker once.

    :returns: its report; None if there is none.
    """
    fill(uri, worker, count if worker.fills else 0)
    with TemporaryDirectory() as folder:
        report, settings = Path(folder, "report"), Path(folder, "settings.toml")
        command = [worker.python, *worker.command]
        if worker.settings:
            settings.write_text(worker.settings)
            command += ["--config", str(settings)]
        environment = os.environ | {
            "PYTHONPATH": f"{worker.checkout}{os.pathsep}{SCRIPTS}",
            "TXAMQP091_URI": uri,
            "BENCH_URI": uri,
            "BENCH_QUEUE": QUEUE,
            "BENCH_COUNT": str(count),
            "BENCH_REPORT": str(report),
            "BENCH_BEGUN": str(time.time()),
        }
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                limit = time.monotonic() + 90
                while not report.exists():
                    if process.poll() is not None or time.monotonic() > limit:
                        print(f"{worker.name} does not work", file=sys.stderr)
                        return None
                    time.sleep(0.02)
                result: dict[str, Any] = json.loads(report.read_text())
            finally:
                process.kill()
                errors = process.stderr.read() if process.stderr else b""
                if not report.exists():
                    sys.stderr.buffer.write(errors[-2000:])
    return result | {"worker": worker.name}


def measure(
    uri: str, workers: list[Worker], rounds: int, count: int = COUNT
) -> list[dict[str, Any]]:
    """
    All rounds of all workers.
    """
    results = []
    for number in range(rounds):
        for worker in workers:
            result = run(uri, worker, max(300, int(count * worker.share)))
            if result is not None:
                results.append(result | {"round": number})
    return results


def _show(values: list[float], form: str) -> str:
    low, middle, high = (
        form.format(each) for each in (min(values), median(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def table(
    results: list[dict[str, Any]], workers: list[Worker] = WORKERS
) -> list[list[str]]:
    """
    The rows of a table of workers, or of publishers, the first of which is its head.
    """
    to = workers[0].name
    names = {each.name for each in workers}
    results = [
        each for each in results if each["worker"].removesuffix(" before") in names
    ]
    rows = [["", "us of CPU for a message", f"times {to}", "messages/s",
             "s to the first", "MB"]]  # fmt: skip
    cpu: dict[str, dict[int, float]] = {}
    for each in results:
        cost = each["cpu"] / each["count"] * 1e6
        cpu.setdefault(each["worker"], {})[each["round"]] = cost
    for name, costs in cpu.items():
        own = [each for each in results if each["worker"] == name]
        base = cpu.get(to, {})
        ratios = [costs[number] / base[number] for number in costs if number in base]
        rows.append(
            [
                name,
                _show(list(costs.values()), "{:.3g}"),
                _show(ratios, "{:.2f}") if ratios else "",
                f"{median(each['count'] / each['wall'] for each in own):,.0f}",
                f"{median(each['start'] for each in own):.2f}",
                f"{median(each['resident'] for each in own) / 1e6:.0f}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.users")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--workers", nargs="+", metavar="NAME")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    workers = [*WORKERS, *PUBLISHERS]
    if options.before is not None:
        workers += all_ours(options.before.resolve(), " before")
    if options.workers:
        workers = [each for each in workers if each.name in options.workers]
    with RabbitNode() as node:
        uri = f"amqp://guest:guest@127.0.0.1:{node.port}/%2F"
        results = measure(uri, workers, options.rounds, options.count)
    if options.json is not None:
        options.json.write_text(json.dumps(results))
    for row in [*table(results), *table(results, PUBLISHERS)]:
        print(" | ".join(row))


if __name__ == "__main__":
    main()
