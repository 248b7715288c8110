# -*- test-case-name: txamqp091.test.unit.daemon.test_settings -*-
"""
The settings of the daemon: what there is, and what it means.

Those of a consumer are in `txamqp091.daemon.consumer_settings`, and what goes together
in `txamqp091.daemon.validation`.  Where settings come from is in
`txamqp091.daemon.settings_loading`; who the broker is, with passwords, in
`txamqp091.daemon.broker_login`.
"""

from __future__ import annotations

__all__ = ["LogFormat", "LogSettings", "LogThreshold", "Settings"]

from dataclasses import dataclass
from enum import Enum
from typing import Any

from txamqp091.daemon.consumer_settings import ConsumerSettings
from txamqp091.daemon.settings_schema import setting
from txamqp091.daemon.tokens import TokenSettings
from txamqp091.protocol import AMQPProtocol
from txamqp091.service import Entity, Topology
from txamqp091.worker.retry_queues import broker_delays


class LogFormat(Enum):
    """
    What a line of the log looks like.
    """

    TEXT = "text"
    JSON = "json"


class LogThreshold(Enum):
    """
    How bad an event has to be to be logged.
    """

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """
    ``[log]``
    """

    format: LogFormat = setting(
        "``text``, or ``json``: one JSON object a line.", LogFormat.TEXT
    )
    level: LogThreshold = setting(
        "What is less than this is not logged.", LogThreshold.INFO, reload=True
    )
    messages: bool = setting(
        "Log each message that was worked on, not only those that failed.",
        False,
        reload=True,
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    The top of the file.
    """

    uri: tuple[str, ...] = setting(
        "Where the broker is: ``amqp://`` or ``amqps://``; a list of several for "
        "the nodes of a cluster.",
        (),
        secret=True,
        variable=False,
    )
    uri_file: str = setting(
        "A file with that.  A relative path is that of a credential of systemd, or "
        "begins where this file is.",
        "",
        variable=False,
    )
    password_file: str = setting(
        "A file with the password; the path is as with ``uri_file``.",
        "",
        variable=False,
    )
    token: TokenSettings | None = setting("See ``[token]``.", None, variable=False)
    name: str = setting(
        "What RabbitMQ calls the connection; by default, ``amqp-consumer`` and the "
        "queues.",
        "",
    )
    shutdown_timeout: float = setting(
        "How many seconds running handlers have to finish when the daemon stops.",
        30.0,
        least=0,
        most=86_400,
    )
    give_up_after: float = setting(
        "After how many seconds without a connection the daemon ends; 0 is never.",
        0.0,
        least=0,
        most=31_536_000,
    )
    threads: int = setting(
        "How many threads there may be for handlers with ``in_thread``.",
        10,
        least=1,
        most=1000,
    )
    admin: str = setting(
        "Where ``/live``, ``/ready`` and ``/metrics`` are to be had: an endpoint "
        "such as ``tcp:9419:interface=127.0.0.1``.  By default, nowhere.",
        "",
    )
    metrics: bool = setting(
        "Whether ``/metrics`` is there; it needs ``txamqp091[metrics]``.", False
    )
    tracing: bool = setting(
        "Whether there are OpenTelemetry spans; it needs ``txamqp091[otel]``.", False
    )
    stalled_after: float = setting(
        "After how many seconds a consumer is not ready any more whose handlers all "
        "run, and none has ended; 0 is never.",
        300.0,
        least=0,
        most=31_536_000,
        reload=True,
    )
    log: LogSettings = setting("See ``[log]``.", LogSettings())
    consumers: tuple[ConsumerSettings, ...] = setting("See ``[[consumers]]``.", ())
    exchanges: tuple[dict[str, Any], ...] = setting(
        "Exchanges to declare: ``name``, ``type``, ``durable``, ``auto_delete``, "
        "``internal`` and ``arguments``.",
        (),
        variable=False,
    )
    queues: tuple[dict[str, Any], ...] = setting(
        "Queues to declare: ``name``, ``durable``, ``exclusive``, ``auto_delete`` and "
        "``arguments``.",
        (),
        variable=False,
    )
    bindings: tuple[dict[str, Any], ...] = setting(
        "Bindings to make: ``source``, ``queue`` (or ``exchange``), ``routing_key`` "
        "and ``arguments``.",
        (),
        variable=False,
    )

    def topology(self) -> Topology:
        """
        All that is to be declared.
        """
        topology = Topology.from_dict(
            {
                "exchanges": list(self.exchanges),
                "queues": list(self.queues),
                "bindings": list(self.bindings),
            }
        )
        for consumer in self.consumers:
            topology = topology.with_(*consumer.entities())
        return topology

    def adapt(self, connection: AMQPProtocol, topology: Topology) -> Topology:
        """
        Leave out the delay queues that a broker has no need of.
        """
        needless: list[Entity] = []
        for consumer in self.consumers:
            if consumer.may_leave_it_to_the_broker():
                needless += consumer.retry_queues().delaying()
        if broker_delays(connection.server_properties):
            return topology.without(*needless)
        return topology.with_(*needless)
