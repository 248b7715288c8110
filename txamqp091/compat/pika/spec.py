# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's methods and properties: `Basic`, `BasicProperties` and the constants.
"""

from __future__ import annotations

__all__ = [
    "FRAME_END_SIZE",
    "FRAME_HEADER_SIZE",
    "FRAME_MAX_SIZE",
    "FRAME_MIN_SIZE",
    "PERSISTENT_DELIVERY_MODE",
    "PORT",
    "TRANSIENT_DELIVERY_MODE",
    "Basic",
    "BasicProperties",
    "Channel",
    "Confirm",
    "Connection",
    "Exchange",
    "Queue",
    "Tx",
]

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from txamqp091.errors import UndecodableProperty
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties

PORT = 5672
FRAME_MAX_SIZE = 131072
FRAME_MIN_SIZE = 4096
FRAME_HEADER_SIZE = 7
FRAME_END_SIZE = 1
TRANSIENT_DELIVERY_MODE = 1
PERSISTENT_DELIVERY_MODE = 2

_NAMES = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)


class BasicProperties:
    """
    The properties of a message; they can be changed.  Their order is AMQP's.

    :ivar timestamp: whole seconds since 1970; a ``datetime`` is accepted.
    """

    def __init__(
        self,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        delivery_mode: Any = None,
        priority: int | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        expiration: str | None = None,
        message_id: str | None = None,
        timestamp: Any = None,
        type: str | None = None,
        user_id: str | None = None,
        app_id: str | None = None,
        cluster_id: str | None = None,
    ) -> None:
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.headers = headers
        self.delivery_mode = plain(delivery_mode)
        self.priority = priority
        self.correlation_id = correlation_id
        self.reply_to = reply_to
        self.expiration = expiration
        self.message_id = message_id
        self.timestamp = timestamp
        self.type = type
        self.user_id = user_id
        self.app_id = app_id
        self.cluster_id = cluster_id

    def __repr__(self) -> str:
        given = [
            f"{name}={getattr(self, name)!r}" for name in _NAMES if self._has(name)
        ]
        return f"<BasicProperties({given})>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BasicProperties):
            return NotImplemented
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None

    def native(self) -> Properties:
        """
        The same as `txamqp091.Properties`.
        """
        values: dict[str, Any] = {
            name: plain(getattr(self, name)) for name in _NAMES if self._has(name)
        }
        stamp = values.get("timestamp")
        if isinstance(stamp, int | float):
            values["timestamp"] = datetime.fromtimestamp(int(stamp), UTC)
        elif stamp is not None:
            values["timestamp"] = in_utc(stamp)
        if self.headers:
            values["headers"] = in_utc(self.headers)
        return Properties(**values)

    @classmethod
    def from_native(cls, properties: Properties) -> BasicProperties:
        """
        Those of a message that came.  A property that cannot be decoded is None.
        """
        found = cls()
        for name in _NAMES:
            try:
                value: Any = getattr(properties, name)
            except UndecodableProperty:
                value = None
            if name == "timestamp" and isinstance(value, datetime):
                value = int(value.timestamp())
            elif isinstance(value, Mapping):
                value = changeable(value)
            setattr(found, name, value)
        return found


def changeable(value: Any) -> Any:
    """
    A header table with tables and lists that can be changed.
    """
    if isinstance(value, Mapping):
        return {name: changeable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [changeable(each) for each in value]
    return value


def in_utc(value: Any) -> Any:
    """
    The value, in which each ``datetime`` without a time zone is in UTC, as pika has it.
    """
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    if isinstance(value, Mapping):
        return {name: in_utc(each) for name, each in value.items()}
    if isinstance(value, list):
        return [in_utc(each) for each in value]
    return value


def plain(value: Any) -> Any:
    """
    The value of an Enum; anything else as it is.
    """
    return value.value if isinstance(value, Enum) else value


class Basic:
    """
    The methods of the class ``basic``.
    """

    @dataclass
    class Deliver:
        """
        What came with a message to a consumer.
        """

        NAME = "Basic.Deliver"

        consumer_tag: str
        delivery_tag: int
        redelivered: bool = False
        exchange: str = ""
        routing_key: str = ""

    @dataclass
    class GetOk:
        """
        What came with a message that was fetched.
        """

        NAME = "Basic.GetOk"

        delivery_tag: int
        redelivered: bool = False
        exchange: str = ""
        routing_key: str = ""
        message_count: int = 0

    @dataclass
    class Return:
        """
        What came with a message that no queue took.
        """

        NAME = "Basic.Return"

        reply_code: int
        reply_text: str = ""
        exchange: str = ""
        routing_key: str = ""

    @dataclass
    class Cancel:
        """
        The broker has ended a consumer.
        """

        NAME = "Basic.Cancel"

        consumer_tag: str

    @dataclass
    class Ack:
        """
        The broker has taken a message.
        """

        NAME = "Basic.Ack"

        delivery_tag: int = 0
        multiple: bool = False

    @dataclass
    class Nack:
        """
        The broker could not take a message.
        """

        NAME = "Basic.Nack"

        delivery_tag: int = 0
        multiple: bool = False
        requeue: bool = True

    @dataclass
    class GetEmpty:
        """
        There was no message to fetch.
        """

        NAME = "Basic.GetEmpty"

    QosOk = spec.BasicQosOk
    ConsumeOk = spec.BasicConsumeOk
    CancelOk = spec.BasicCancelOk
    RecoverOk = spec.BasicRecoverOk


class Queue:
    """
    The answers of the class ``queue``.
    """

    DeclareOk = spec.QueueDeclareOk
    BindOk = spec.QueueBindOk
    UnbindOk = spec.QueueUnbindOk
    PurgeOk = spec.QueuePurgeOk
    DeleteOk = spec.QueueDeleteOk


class Exchange:
    """
    The answers of the class ``exchange``.
    """

    DeclareOk = spec.ExchangeDeclareOk
    DeleteOk = spec.ExchangeDeleteOk
    BindOk = spec.ExchangeBindOk
    UnbindOk = spec.ExchangeUnbindOk


class Channel:
    """
    The answers of the class ``channel``.
    """

    OpenOk = spec.ChannelOpenOk
    FlowOk = spec.ChannelFlowOk
    CloseOk = spec.ChannelCloseOk


class Connection:
    """
    The notices of the class ``connection``.
    """

    @dataclass
    class Blocked:
        """
        The broker blocks publishing.
        """

        NAME = "Connection.Blocked"

        reason: str = ""

    @dataclass
    class Unblocked:
        """
        The broker does not block publishing any more.
        """

        NAME = "Connection.Unblocked"

    CloseOk = spec.ConnectionCloseOk
    UpdateSecretOk = spec.ConnectionUpdateSecretOk


class Confirm:
    """
    The answers of the class ``confirm``.
    """

    SelectOk = spec.ConfirmSelectOk


class Tx:
    """
    The answers of the class ``tx``.
    """

    SelectOk = spec.TxSelectOk
    CommitOk = spec.TxCommitOk
    RollbackOk = spec.TxRollbackOk
