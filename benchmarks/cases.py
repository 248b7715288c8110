"""
The cases and the clients: what is measured with whom, and in what unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "BEFORE",
    "CASES",
    "CLIENTS",
    "C",
    "Case",
    "Client",
    "OURS",
    "ROUND_TRIP",
    "Run",
]

#: One measurement: what a client reported, and what it was told to do.
Run = dict[str, Any]

#: How long a question and its answer are on their way, on the slow link, in seconds.
ROUND_TRIP = 0.04

RABBITMQ, SINK, LINK = "rabbitmq", "sink", "link"


def cpu(run: Run) -> float:
    """
    Processor time, of user and system, for each message, in microseconds.
    """
    return float((run["user"] + run["system"]) / run["count"] * 1e6)


def memory(run: Run) -> float:
    """
    What the process grew by for each, in KiB.
    """
    return float(run["grown"] / run["count"] / 1024)


def lag(run: Run) -> float:
    """
    How late the latest call of the event loop was, in milliseconds.
    """
    return float(run["lag"][1])


def trips(run: Run) -> float:
    """
    How many round trips a hundred took.
    """
    return float(run["wall"] / ROUND_TRIP / run["count"] * 100)


@dataclass(frozen=True)
class Case:
    """
    Something to measure.

    :ivar name: what it is called.
    :ivar function: what does it, in the clients' scripts.
    :ivar count: how often, with a client whose share is 1.
    :ivar size: of how many bytes the messages are.
    :ivar full: whether the queue is filled before.
    :ivar peers: against whom it is measured.
    :ivar figure: what is made of a measurement.
    :ivar once: whether the same number is right for all, and one round enough.
    :ivar window: how many may be unconfirmed.
    :ivar prefetch: how many may be unacknowledged.
    :ivar choice: what a user of ours chooses; the others are not measured then.
    :ivar like: the case of other clients that it is compared with, if they have none.
    :ivar target: the ratio to rabbitmq-c that is aimed at.
    """

    name: str
    function: str
    count: int
    size: int = 128
    full: bool = False
    peers: tuple[str, ...] = (RABBITMQ, SINK)
    figure: Callable[[Run], float] = cpu
    once: bool = False
    window: int = 1000
    prefetch: int = 200
    choice: str = ""
    like: str = ""
    target: float | None = None

    @property
    def lag(self) -> bool:
        return self.figure is lag


MIB = 1 << 20

CASES = {
    case.name: case
    for case in (
        Case("publish", "publish", 30000, target=0.7),
        Case("publish_many", "publish_many", 30000, like="publish", target=0.4),
        Case("publish 1 KiB", "publish", 30000, 1024, target=0.7),
        Case("confirm", "confirm", 30000, target=1.0),
        Case("confirm_many", "confirm_many", 30000, like="confirm", target=1.0),
        Case("consume", "consume", 30000, full=True, target=1.6),
        Case("ack", "ack", 30000, full=True, target=0.9),
        Case("get", "get", 3000, full=True),
        Case("declare", "declare", 3000),
        Case("declare_pipelined", "declare_pipelined", 3000, like="declare"),
        Case("publish 1 MiB", "publish", 100, MIB, target=1.5),
        Case("consume 1 MiB", "consume", 100, MIB, full=True, target=1.5),
        Case("connect", "connect", 100),
        Case("lag, publishing", "publish", 30000, figure=lag, peers=(RABBITMQ,)),
        Case(
            "lag, consuming", "consume", 30000, full=True, figure=lag, peers=(RABBITMQ,)
        ),
        Case(
            "100,000 messages kept",
            "keep",
            100000,
            peers=(SINK,),
            figure=memory,
            once=True,
        ),
        Case(
            "10,000 idle channels",
            "channels",
            10000,
            peers=(SINK,),
            figure=memory,
            once=True,
        ),
        Case(
            "100 declares, 40 ms away",
            "declare_pipelined",
            100,
            peers=(LINK,),
            figure=trips,
            once=True,
            like="100 declares, 40 ms away, one by one",
        ),
        Case(
            "100 declares, 40 ms away, one by one",
            "declare",
            100,
            peers=(LINK,),
            figure=trips,
            once=True,
        ),
        *(
            Case(f"window {window}", "confirm", count, peers=(RABBITMQ,),
                 window=window, choice=f"confirm, a window of {window:,}")
            for window, count in (
                (1, 1000), (10, 5000), (100, 10000), (1000, 20000), (10000, 20000)
            )
        ),
        *(
            Case(f"prefetch {prefetch}", "ack", count, full=True, peers=(RABBITMQ,),
                 prefetch=prefetch, choice=f"ack each, a prefetch of {prefetch:,}")
            for prefetch, count in (
                (1, 1000), (10, 5000), (50, 10000), (200, 20000), (1000, 20000)
            )
        ),
        Case("ack_joined", "ack_joined", 20000, full=True, peers=(RABBITMQ,),
             choice="ack each, after join_acks(), a prefetch of 200"),
        Case("ack_multiple", "ack_multiple", 20000, full=True, peers=(RABBITMQ,),
             choice="ack(multiple=True) for every 50th, a prefetch of 200"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Client:
    """
    A client, and how much of the work it is given: the slow ones get less.
    """

    name: str
    module: str
    share: float = 0.25
    #: Where it is, if it is not in this checkout.
    checkout: Path | None = None


OURS = "txamqp091"
#: Ours as it was, in another checkout.
BEFORE = "txamqp091 before"
C = "rabbitmq-c"

CLIENTS = {
    client.name: client
    for client in (
        Client(OURS, "txamqp091_twisted", 1),
        Client(f"{OURS} asyncio", "txamqp091_aio", 1),
        Client(f"{OURS} blocking", "txamqp091_blocking"),
        Client(C, "rabbitmqc", 1),
        Client("pika select", "pika_select"),
        Client("pika Twisted", "pika_twisted"),
        Client("pika blocking", "pika_blocking"),
        Client("py-amqp", "py_amqp"),
        Client("AMQPStorm", "amqp_storm"),
        Client("aiormq", "aiormq_asyncio", 0.1),
        Client("aio-pika", "aio_pika_asyncio", 0.1),
    )
}
