# -*- test-case-name: txamqp091.test.interop.test_clients -*-
"""
py-amqp, the client below Celery and kombu.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
from amqp.exceptions import AMQPError

from txamqp091.test.interop.foreign import refused, say


def connect(uri: str, **changes: Any) -> amqp.Connection:
    """
    Connect.
    """
    parts = urlsplit(uri)
    options: dict[str, Any] = {
        "host": f"{parts.hostname}:{parts.port}",
        "userid": parts.username,
        "password": parts.password,
        "virtual_host": unquote(parts.path[1:]),
        "confirm_publish": True,
        "heartbeat": 10,
    }
    connection = amqp.Connection(**{**options, **changes})
    connection.connect()
    return connection


def shown(message: Any) -> list[Any]:
    """
    What a message has.
    """
    info = {
        key: value
        for key, value in message.delivery_info.items()
        if key not in ("channel", "consumer_tag")
    }
    return [info, message.properties, message.body]


def declare(channel: Any, queue: str, **options: Any) -> Any:
    """
    Declare a queue that goes with the connection.
    """
    return channel.queue_declare(queue, exclusive=True, auto_delete=False, **options)


def messages(connection: Any, channel: Any) -> None:
    """
    Messages out and in.
    """
    say("declared", tuple(declare(channel, "foreign")))
    channel.exchange_declare("foreign-x", "direct", auto_delete=True)
    channel.queue_bind("foreign", "foreign-x", "key")
    for number in range(3):
        message = amqp.Message(
            b"%d" % number,
            content_type="text/plain",
            application_headers={"number": number, "nested": {"list": [1, "a"]}},
            delivery_mode=2,
        )
        channel.basic_publish(message, "foreign-x", "key")
    returned: list[Any] = []
    channel.events["basic_return"].add(lambda *arguments: returned.append(arguments))
    channel.basic_publish(amqp.Message("back"), "foreign-x", "nowhere", mandatory=True)
    say("returned", [(*each[1:3], each[3].body) for each in returned])
    got = channel.basic_get("foreign")
    say("got", shown(got))
    channel.basic_reject(got.delivery_tag, requeue=True)
    taken: list[Any] = []
    channel.basic_qos(0, 1, False)

    def take(message: Any) -> None:
        taken.append(message)
        say("consumed", shown(message))
        channel.basic_ack(message.delivery_tag)

    tag = channel.basic_consume("foreign", callback=take, consumer_tag="mine")
    while len(taken) < 3:
        connection.drain_events(timeout=60)
    channel.basic_cancel(tag)
    say("empty", channel.basic_get("foreign"))
    say("deleted", channel.queue_delete("foreign"))


def transactions(connection: Any) -> None:
    """
    What is rolled back, and what is committed.
    """
    channel = connection.channel()
    declare(channel, "foreign-tx")
    channel.tx_select()
    channel._basic_publish(amqp.Message("never"), "", "foreign-tx")
    channel.tx_rollback()
    channel._basic_publish(amqp.Message("committed"), "", "foreign-tx")
    channel.tx_commit()
    say("committed", channel.basic_get("foreign-tx", no_ack=True).body)
    channel.close()


def refusals(connection: Any) -> None:
    """
    What costs a channel.
    """
    declare(connection.channel(), "foreign-q")
    with refused("missing queue", AMQPError):
        connection.channel().queue_declare("missing", passive=True)
    with refused("missing exchange", AMQPError):
        connection.channel().exchange_declare("missing", "direct", passive=True)
    with refused("other type", AMQPError):
        connection.channel().exchange_declare("amq.topic", "direct", durable=True)
    with refused("other arguments", AMQPError):
        declare(connection.channel(), "foreign-q", arguments={"x-message-ttl": 5})
    with refused("unused", AMQPError):
        channel = connection.channel()
        channel.basic_consume("foreign-q", callback=lambda message: None)
        connection.channel().queue_delete("foreign-q", if_unused=True)
    with refused("exclusive", AMQPError):
        connection.channel().basic_consume("foreign-q", exclusive=True)


def main(uri: str) -> None:
    """
    Do all of it.
    """
    connection = connect(uri)
    messages(connection, connection.channel())
    transactions(connection)
    refusals(connection)
    connection.send_heartbeat()
    connection.heartbeat_tick()
    with refused("locked", AMQPError):
        other = connect(uri)
        other.channel().queue_declare("foreign-q", passive=True)
    other.close()
    with refused("unknown exchange type", AMQPError):
        other = connect(uri)
        other.channel().exchange_declare("foreign-z", "nonsense")
    with refused("wrong password", AMQPError):
        connect(uri, password="wrong")
    with refused("missing virtual host", AMQPError):
        connect(uri, virtual_host="missing")
    connection.close()
    say("closed", connection.connected)


if __name__ == "__main__":
    main(sys.argv[1])
