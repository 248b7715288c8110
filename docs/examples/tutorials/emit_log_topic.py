import os
import sys

from twisted.internet.task import react

from txamqp091 import ExchangeType, connect


async def main(reactor, routing_key="anonymous.info", *words):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    message = " ".join(words) or "Hello World!"
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.exchange_declare("topic_logs", ExchangeType.TOPIC)
        await channel.basic_publish("topic_logs", routing_key, message)
        print(f" [x] Sent {routing_key}: {message}")


react(main, sys.argv[1:])
