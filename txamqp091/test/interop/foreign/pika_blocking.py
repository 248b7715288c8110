# -*- test-case-name: txamqp091.test.interop.test_clients -*-
"""
pika, with its blocking connection.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from txamqp091.test.interop.foreign import refused, say

HEADERS = {
    "text": "\u20ac",
    "number": 7,
    "large": 1 << 40,
    "negative": -3,
    "true": True,
    "nothing": None,
    "list": [1, "two", {"three": 3}],
}


def shown(properties: pika.BasicProperties) -> dict[str, Any]:
    """
    The properties that a message has.
    """
    return {key: value for key, value in vars(properties).items() if value is not None}


def declarations(channel: BlockingChannel) -> None:
    """
    Queues, exchanges and bindings, and what is asked of them.
    """
    ok = channel.queue_declare("foreign", exclusive=True).method
    say("declared", ok.queue, ok.message_count, ok.consumer_count)
    ok = channel.queue_declare("", exclusive=True).method
    say("named", ok.queue)
    channel.exchange_declare("foreign-x", "topic", auto_delete=True)
    channel.exchange_declare("foreign-y", "fanout", auto_delete=True)
    channel.exchange_bind("foreign-y", "foreign-x", "a.#")
    channel.queue_bind("foreign", "foreign-y")
    channel.queue_bind("foreign", "foreign-x", "b.*")
    for key in ("a.b.c", "b.c", "b.c.d", "c"):
        channel.basic_publish("foreign-x", key, key.encode())
    say("purged", channel.queue_purge("foreign").method.message_count)


def messages(channel: BlockingChannel) -> None:
    """
    Messages out and in.
    """
    channel.confirm_delivery()
    properties = pika.BasicProperties(
        content_type="text/plain",
        headers=HEADERS,
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
    )
    channel.basic_publish("", "foreign", b"with all", properties)
    channel.basic_publish("", "foreign", bytes(300_000))
    channel.basic_publish("", "foreign", b"")
    with refused("unroutable", pika.exceptions.UnroutableError):
        channel.basic_publish("", "nowhere", b"back", mandatory=True)
    for _ in range(4):
        method, got, body = channel.basic_get("foreign")
        if method is None:
            say("empty")
            break
        say("got", method.delivery_tag, method.redelivered, method.routing_key)
        say("  of", method.message_count, shown(got), body)
    channel.basic_nack(0, multiple=True)
    taken = []
    for method, _, body in channel.consume("foreign"):
        taken.append((method.delivery_tag, method.redelivered, body))
        channel.basic_ack(method.delivery_tag)
        if len(taken) == 3:
            break
    say("consumed", taken)
    say("requeued", channel.cancel())


def callbacks(connection: pika.BlockingConnection, channel: BlockingChannel) -> None:
    """
    A consumer that is called, with a limit, which rejects; and dead letters.
    """
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "foreign"}
    channel.queue_declare("foreign-dying", exclusive=True, arguments=arguments)
    channel.basic_qos(prefetch_count=2)

    def reject(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        say("delivered", method.exchange, method.routing_key, body)
        channel.basic_reject(method.delivery_tag, requeue=False)

    tag = channel.basic_consume("foreign-dying", reject, consumer_tag="mine")
    for number in range(5):
        channel.basic_publish("", "foreign-dying", b"%d" % number)
    while channel.queue_declare("foreign", passive=True).method.message_count < 5:
        connection.process_data_events(time_limit=0.05)
    channel.basic_cancel(tag)
    for _ in range(5):
        _, got, body = channel.basic_get("foreign", auto_ack=True)
        say("dead", body, got.headers)
    channel.basic_publish(
        "", "foreign-dying", b"late", pika.BasicProperties(expiration="1")
    )
    while not channel.queue_declare("foreign", passive=True).method.message_count:
        connection.process_data_events(time_limit=0.05)
    _, got, body = channel.basic_get("foreign", auto_ack=True)
    say("expired", body, got.expiration, got.headers["x-death"][0]["reason"])


def transactions(channel: BlockingChannel) -> None:
    """
    What is rolled back, and what is committed.
    """
    channel.tx_select()
    channel.basic_publish("", "foreign", b"never")
    channel.tx_rollback()
    channel.basic_publish("", "foreign", b"committed")
    say("before", channel.basic_get("foreign")[0])
    channel.tx_commit()
    say("after", channel.basic_get("foreign")[2])


def refusals(connection: pika.BlockingConnection) -> None:
    """
    What costs a channel.
    """
    with refused("missing queue", AMQPError):
        connection.channel().queue_declare("missing", passive=True)
    with refused("missing exchange", AMQPError):
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("missing", "key", b"x")
    with refused("other arguments", AMQPError):
        arguments = {"x-max-length": 3}
        connection.channel().queue_declare(
            "foreign", exclusive=True, arguments=arguments
        )
    with refused("other durability", AMQPError):
        connection.channel().exchange_declare("amq.direct", "direct")
    with refused("reserved", AMQPError):
        connection.channel().queue_declare("amq.mine")
    with refused("default exchange", AMQPError):
        connection.channel().queue_bind("foreign", "", "key")
    with refused("unknown tag", AMQPError):
        channel = connection.channel()
        channel.basic_ack(99)
        channel.queue_declare("", exclusive=True)
    with refused("modes", AMQPError):
        channel = connection.channel()
        channel.tx_select()
        channel.confirm_delivery()
    with refused("another user", AMQPError):
        channel = connection.channel()
        channel.confirm_delivery()
        properties = pika.BasicProperties(user_id="mallory")
        channel.basic_publish("", "foreign", b"x", properties)
    with refused("queue in use", AMQPError):
        channel = connection.channel()
        channel.basic_publish("", "foreign", b"x")
        channel.queue_delete("foreign", if_empty=True)


def endings(parameters: pika.URLParameters, connection: Any) -> None:
    """
    What costs a connection.
    """
    with refused("locked", AMQPError):
        other = pika.BlockingConnection(parameters)
        other.channel().queue_declare("foreign", passive=True)
    with refused("tag again", AMQPError):
        channel = other.channel()
        channel.queue_declare("foreign-tag", exclusive=True)
        for _ in range(2):
            method = pika.spec.Basic.Consume(
                queue="foreign-tag", consumer_tag="t", no_ack=True
            )
            channel._impl._send_method(method)
        channel.queue_declare("foreign-tag", passive=True)
    with refused("wrong password", AMQPError):
        parameters.credentials = pika.PlainCredentials("guest", "wrong")
        pika.BlockingConnection(parameters)
    with refused("missing virtual host", AMQPError):
        parameters.credentials = pika.PlainCredentials("guest", "guest")
        parameters.virtual_host = "missing"
        pika.BlockingConnection(parameters)


def main(uri: str) -> None:
    """
    Do all of it.
    """
    logging.disable()
    parameters = pika.URLParameters(uri)
    parameters.connection_attempts = 1
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    declarations(channel)
    messages(channel)
    callbacks(connection, channel)
    transactions(connection.channel())
    refusals(connection)
    endings(parameters, connection)
    connection.close()
    say("closed", connection.is_closed)


if __name__ == "__main__":
    main(sys.argv[1])
