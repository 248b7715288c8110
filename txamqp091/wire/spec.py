# -*- test-case-name: txamqp091.test.unit.wire.test_spec -*-
"""
AMQP 0-9-1 and RabbitMQ's extensions to it: every constant, class and method.

Declarations only; `txamqp091.wire.method` makes codecs of them.  Fields have
their names in the specification, with underscores.  The message properties of
the class basic stand in `txamqp091.wire.properties`.
"""

from __future__ import annotations

from typing import Annotated, Final

from txamqp091.wire.method import Method, link_replies, method
from txamqp091.wire.types import (
    EMPTY_TABLE,
    SECRET,
    Bit,
    Long,
    LongLong,
    LongStr,
    Octet,
    Short,
    ShortStr,
    Table,
)

__all__ = [
    "ACCESS_REFUSED",
    "CHANNEL_ERROR",
    "COMMAND_INVALID",
    "CONNECTION_FORCED",
    "CONTENT_TOO_LARGE",
    "FRAME_BODY",
    "FRAME_END",
    "FRAME_ERROR",
    "FRAME_HEADER",
    "FRAME_HEARTBEAT",
    "FRAME_METHOD",
    "FRAME_MIN_SIZE",
    "INTERNAL_ERROR",
    "INVALID_PATH",
    "NOT_ALLOWED",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
    "NO_CONSUMERS",
    "NO_ROUTE",
    "PRECONDITION_FAILED",
    "PROTOCOL_HEADER",
    "REPLY_SUCCESS",
    "RESOURCE_ERROR",
    "RESOURCE_LOCKED",
    "SYNTAX_ERROR",
    "UNEXPECTED_FRAME",
    "AccessRequest",
    "AccessRequestOk",
    "BasicAck",
    "BasicCancel",
    "BasicCancelOk",
    "BasicConsume",
    "BasicConsumeOk",
    "BasicDeliver",
    "BasicGet",
    "BasicGetEmpty",
    "BasicGetOk",
    "BasicNack",
    "BasicPublish",
    "BasicQos",
    "BasicQosOk",
    "BasicRecover",
    "BasicRecoverAsync",
    "BasicRecoverOk",
    "BasicReject",
    "BasicReturn",
    "ChannelClose",
    "ChannelCloseOk",
    "ChannelFlow",
    "ChannelFlowOk",
    "ChannelOpen",
    "ChannelOpenOk",
    "ConfirmSelect",
    "ConfirmSelectOk",
    "ConnectionBlocked",
    "ConnectionClose",
    "ConnectionCloseOk",
    "ConnectionOpen",
    "ConnectionOpenOk",
    "ConnectionSecure",
    "ConnectionSecureOk",
    "ConnectionStart",
    "ConnectionStartOk",
    "ConnectionTune",
    "ConnectionTuneOk",
    "ConnectionUnblocked",
    "ConnectionUpdateSecret",
    "ConnectionUpdateSecretOk",
    "ExchangeBind",
    "ExchangeBindOk",
    "ExchangeDeclare",
    "ExchangeDeclareOk",
    "ExchangeDelete",
    "ExchangeDeleteOk",
    "ExchangeUnbind",
    "ExchangeUnbindOk",
    "QueueBind",
    "QueueBindOk",
    "QueueDeclare",
    "QueueDeclareOk",
    "QueueDelete",
    "QueueDeleteOk",
    "QueuePurge",
    "QueuePurgeOk",
    "QueueUnbind",
    "QueueUnbindOk",
    "TxCommit",
    "TxCommitOk",
    "TxRollback",
    "TxRollbackOk",
    "TxSelect",
    "TxSelectOk",
]

#: What a client says first.
PROTOCOL_HEADER: Final = b"AMQP\0\0\x09\x01"

# The types of frames, the octet that ends each, and the size that both sides must
# be able to take before they have agreed on another.
FRAME_METHOD: Final = 1
FRAME_HEADER: Final = 2
FRAME_BODY: Final = 3
FRAME_HEARTBEAT: Final = 8
FRAME_MIN_SIZE: Final = 4096
FRAME_END: Final = 206

# Why a message came back, or a channel (soft errors) or a connection was closed.
REPLY_SUCCESS: Final = 200
CONTENT_TOO_LARGE: Final = 311
NO_ROUTE: Final = 312
NO_CONSUMERS: Final = 313
CONNECTION_FORCED: Final = 320
INVALID_PATH: Final = 402
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406
FRAME_ERROR: Final = 501
SYNTAX_ERROR: Final = 502
COMMAND_INVALID: Final = 503
CHANNEL_ERROR: Final = 504
UNEXPECTED_FRAME: Final = 505
RESOURCE_ERROR: Final = 506
NOT_ALLOWED: Final = 530
NOT_IMPLEMENTED: Final = 540
INTERNAL_ERROR: Final = 541


# -- connection: from the greeting to the last word ---------------------------


@method(10, 10, replies=("ConnectionStartOk",))
class ConnectionStart(Method):
    """
    The broker's greeting: what it is, and which SASL mechanisms and languages
    for its texts it offers (both separated by spaces).
    """

    version_major: Octet = 0
    version_minor: Octet = 9
    server_properties: Table = EMPTY_TABLE
    mechanisms: LongStr = b"PLAIN"
    locales: LongStr = b"en_US"


@method(10, 11)
class ConnectionStartOk(Method):
    """
    What the client is and can do, the mechanism that it chose, and the first
    response in it.
    """

    client_properties: Table = EMPTY_TABLE
    mechanism: ShortStr = "PLAIN"
    response: Annotated[LongStr, SECRET] = b""
    locale: ShortStr = "en_US"


@method(10, 20, replies=("ConnectionSecureOk",))
class ConnectionSecure(Method):
    """
    The broker's next question in the SASL exchange.
    """

    challenge: Annotated[LongStr, SECRET] = b""


@method(10, 21)
class ConnectionSecureOk(Method):
    """
    The answer to the broker's question.
    """

    response: Annotated[LongStr, SECRET] = b""


@method(10, 30, replies=("ConnectionTuneOk",))
class ConnectionTune(Method):
    """
    The limits that the broker proposes, where 0 means none; the heartbeat is in
    seconds.
    """

    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


@method(10, 31)
class ConnectionTuneOk(Method):
    """
    The limits that the client settles on.
    """

    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


@method(10, 40, replies=("ConnectionOpenOk",))
class ConnectionOpen(Method):
    """
    Choose the virtual host.
    """

    virtual_host: ShortStr = "/"
    reserved_1: ShortStr = ""
    reserved_2: Bit = False


@method(10, 41)
class ConnectionOpenOk(Method):
    """
    The connection is ready for channels.
    """

    reserved_1: ShortStr = ""


@method(10, 50, replies=("ConnectionCloseOk",))
class ConnectionClose(Method):
    """
    End the connection and say why; if a method was at fault, which.
    """

    reply_code: Short = REPLY_SUCCESS
    reply_text: ShortStr = ""
    class_id: Short = 0
    method_id: Short = 0


@method(10, 51)
class ConnectionCloseOk(Method):
    """
    The last word on a connection.
    """


@method(10, 60)
class ConnectionBlocked(Method):
    """
    RabbitMQ has run short of memory or disk, and takes no more publishes.
    """

    reason: ShortStr = ""


@method(10, 61)
class ConnectionUnblocked(Method):
    """
    RabbitMQ takes publishes again.
    """


@method(10, 70, replies=("ConnectionUpdateSecretOk",))
class ConnectionUpdateSecret(Method):
    """
    Put a new secret, such as a token, in the place of one about to expire.
    """

    new_secret: Annotated[LongStr, SECRET] = b""
    reason: ShortStr = ""


@method(10, 71)
class ConnectionUpdateSecretOk(Method):
    """
    The new secret is in force.
    """


# -- channel: many conversations on one connection ----------------------------


@method(20, 10, replies=("ChannelOpenOk",))
class ChannelOpen(Method):
    """
    Open a channel under the number of this frame.
    """

    reserved_1: ShortStr = ""


@method(20, 11)
class ChannelOpenOk(Method):
    """
    The channel is ready.
    """

    reserved_1: LongStr = b""


@method(20, 20, replies=("ChannelFlowOk",))
class ChannelFlow(Method):
    """
    Ask the other side to pause sending content, or to resume.
    """

    active: Bit = False


@method(20, 21)
class ChannelFlowOk(Method):
    """
    Says whether content will now be sent.
    """

    active: Bit = False


@method(20, 40, replies=("ChannelCloseOk",))
class ChannelClose(Method):
    """
    End the channel and say why; if a method was at fault, which.
    """

    reply_code: Short = REPLY_SUCCESS
    reply_text: ShortStr = ""
    class_id: Short = 0
    method_id: Short = 0


@method(20, 41)
class ChannelCloseOk(Method):
    """
    The channel's number is free again.
    """


# -- access: rights, before AMQP 0-9-1 did away with them ------------------------


@method(30, 10, replies=("AccessRequestOk",))
class AccessRequest(Method):
    """
    Ask for rights in a realm.  RabbitMQ grants whatever old clients ask for.
    """

    realm: ShortStr = "/data"
    exclusive: Bit = False
    passive: Bit = True
    active: Bit = True
    write: Bit = True
    read: Bit = True


@method(30, 11)
class AccessRequestOk(Method):
    """
    The rights are granted, under this ticket.
    """

    reserved_1: Short = 1


# -- exchange: where messages are sent ----------------------------------------


@method(40, 10, replies=("ExchangeDeclareOk",))
class ExchangeDeclare(Method):
    """
    Make an exchange, or check that it is there and the same.
    """

    reserved_1: Short = 0
    exchange: ShortStr = ""
    type: ShortStr = "direct"
    passive: Bit = False
    durable: Bit = False
    auto_delete: Bit = False
    internal: Bit = False
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(40, 11)
class ExchangeDeclareOk(Method):
    """
    The exchange is there.
    """


@method(40, 20, replies=("ExchangeDeleteOk",))
class ExchangeDelete(Method):
    """
    Delete an exchange, with its bindings.
    """

    reserved_1: Short = 0
    exchange: ShortStr = ""
    if_unused: Bit = False
    no_wait: Bit = False


@method(40, 21)
class ExchangeDeleteOk(Method):
    """
    The exchange is gone.
    """


@method(40, 30, replies=("ExchangeBindOk",))
class ExchangeBind(Method):
    """
    Have one exchange pass messages to another.
    """

    reserved_1: Short = 0
    destination: ShortStr = ""
    source: ShortStr = ""
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(40, 31)
class ExchangeBindOk(Method):
    """
    The exchanges are bound.
    """


@method(40, 40, replies=("ExchangeUnbindOk",))
class ExchangeUnbind(Method):
    """
    Undo the binding of one exchange to another that has the same key and
    arguments.
    """

    reserved_1: Short = 0
    destination: ShortStr = ""
    source: ShortStr = ""
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(40, 51)
class ExchangeUnbindOk(Method):
    """
    The exchanges are bound no longer.
    """


# -- queue: where messages wait -----------------------------------------------


@method(50, 10, replies=("QueueDeclareOk",))
class QueueDeclare(Method):
    """
    Make a queue, or check that it is there and the same.  The broker finds a name
    if none is given.
    """

    reserved_1: Short = 0
    queue: ShortStr = ""
    passive: Bit = False
    durable: Bit = False
    exclusive: Bit = False
    auto_delete: Bit = False
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(50, 11)
class QueueDeclareOk(Method):
    """
    The queue's name, how many messages wait in it, and who consumes.
    """

    queue: ShortStr = ""
    message_count: Long = 0
    consumer_count: Long = 0


@method(50, 20, replies=("QueueBindOk",))
class QueueBind(Method):
    """
    Have an exchange put messages into a queue.
    """

    reserved_1: Short = 0
    queue: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(50, 21)
class QueueBindOk(Method):
    """
    The queue is bound.
    """


@method(50, 50, replies=("QueueUnbindOk",))
class QueueUnbind(Method):
    """
    Undo the binding of a queue that has the same key and arguments.
    """

    reserved_1: Short = 0
    queue: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    arguments: Table = EMPTY_TABLE


@method(50, 51)
class QueueUnbindOk(Method):
    """
    The queue is bound no longer.
    """


@method(50, 30, replies=("QueuePurgeOk",))
class QueuePurge(Method):
    """
    Drop the messages that wait in a queue; those out for acknowledgement stay.
    """

    reserved_1: Short = 0
    queue: ShortStr = ""
    no_wait: Bit = False


@method(50, 31)
class QueuePurgeOk(Method):
    """
    How many messages were dropped.
    """

    message_count: Long = 0


@method(50, 40, replies=("QueueDeleteOk",))
class QueueDelete(Method):
    """
    Delete a queue, with its messages and bindings.
    """

    reserved_1: Short = 0
    queue: ShortStr = ""
    if_unused: Bit = False
    if_empty: Bit = False
    no_wait: Bit = False


@method(50, 41)
class QueueDeleteOk(Method):
    """
    The queue is gone, with this many messages.
    """

    message_count: Long = 0


# -- basic: messages ----------------------------------------------------------


@method(60, 10, replies=("BasicQosOk",))
class BasicQos(Method):
    """
    Limit how many deliveries may be out unacknowledged.  To RabbitMQ ``global``
    means the whole channel, and its absence each new consumer.
    """

    prefetch_size: Long = 0
    prefetch_count: Short = 0
    global_: Bit = False


@method(60, 11)
class BasicQosOk(Method):
    """
    The limit holds.
    """


@method(60, 20, replies=("BasicConsumeOk",))
class BasicConsume(Method):
    """
    Start a consumer on a queue.
    """

    reserved_1: Short = 0
    queue: ShortStr = ""
    consumer_tag: ShortStr = ""
    no_local: Bit = False
    no_ack: Bit = False
    exclusive: Bit = False
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(60, 21)
class BasicConsumeOk(Method):
    """
    The consumer runs, under this tag.
    """

    consumer_tag: ShortStr = ""


@method(60, 30, replies=("BasicCancelOk",))
class BasicCancel(Method):
    """
    End a consumer.  RabbitMQ sends it too, when the queue goes away.
    """

    consumer_tag: ShortStr = ""
    no_wait: Bit = False


@method(60, 31)
class BasicCancelOk(Method):
    """
    The consumer has ended.
    """

    consumer_tag: ShortStr = ""


@method(60, 40, content=True)
class BasicPublish(Method):
    """
    Send a message to an exchange.
    """

    reserved_1: Short = 0
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    mandatory: Bit = False
    immediate: Bit = False


@method(60, 50, content=True)
class BasicReturn(Method):
    """
    A mandatory message comes back, as there was no queue for it.
    """

    reply_code: Short = 0
    reply_text: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""


@method(60, 60, content=True)
class BasicDeliver(Method):
    """
    A message for a consumer.
    """

    consumer_tag: ShortStr = ""
    delivery_tag: LongLong = 0
    redelivered: Bit = False
    exchange: ShortStr = ""
    routing_key: ShortStr = ""


@method(60, 70, replies=("BasicGetOk", "BasicGetEmpty"))
class BasicGet(Method):
    """
    Take one message out of a queue.
    """

    reserved_1: Short = 0
    queue: ShortStr = ""
    no_ack: Bit = False


@method(60, 71, content=True)
class BasicGetOk(Method):
    """
    The message, and how many are left.
    """

    delivery_tag: LongLong = 0
    redelivered: Bit = False
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    message_count: Long = 0


@method(60, 72)
class BasicGetEmpty(Method):
    """
    The queue had no message.
    """

    reserved_1: ShortStr = ""


@method(60, 80)
class BasicAck(Method):
    """
    To the broker: a delivery is dealt with.  From the broker: a publish is safe.
    """

    delivery_tag: LongLong = 0
    multiple: Bit = False


@method(60, 90)
class BasicReject(Method):
    """
    Refuse one delivery, and have it queued again or dropped.
    """

    delivery_tag: LongLong = 0
    requeue: Bit = True


@method(60, 100)
class BasicRecoverAsync(Method):
    """
    Have all unacknowledged deliveries sent again, without an answer.  Given up
    in favour of `BasicRecover`.
    """

    requeue: Bit = False


@method(60, 110, replies=("BasicRecoverOk",))
class BasicRecover(Method):
    """
    Have all unacknowledged deliveries sent again.
    """

    requeue: Bit = False


@method(60, 111)
class BasicRecoverOk(Method):
    """
    The deliveries will be sent again.
    """


@method(60, 120)
class BasicNack(Method):
    """
    To the broker: a delivery, or several, refused.  From the broker: a publish, or
    several, that it could not keep.
    """

    delivery_tag: LongLong = 0
    multiple: Bit = False
    requeue: Bit = True


# -- confirm: the broker answers for each publish -----------------------------


@method(85, 10, replies=("ConfirmSelectOk",))
class ConfirmSelect(Method):
    """
    Have the broker confirm each publish on this channel.
    """

    nowait: Bit = False


@method(85, 11)
class ConfirmSelectOk(Method):
    """
    Publishes are confirmed from now on, and numbered from 1.
    """


# -- tx: transactions ---------------------------------------------------------


@method(90, 10, replies=("TxSelectOk",))
class TxSelect(Method):
    """
    Make the channel transactional.
    """


@method(90, 11)
class TxSelectOk(Method):
    """
    A transaction has begun.
    """


@method(90, 20, replies=("TxCommitOk",))
class TxCommit(Method):
    """
    Have the publishes and acknowledgements since the last commit take effect.
    """


@method(90, 21)
class TxCommitOk(Method):
    """
    They have, and the next transaction has begun.
    """


@method(90, 30, replies=("TxRollbackOk",))
class TxRollback(Method):
    """
    Drop the publishes and acknowledgements since the last commit.
    """


@method(90, 31)
class TxRollbackOk(Method):
    """
    They are dropped, and the next transaction has begun.
    """


link_replies()
