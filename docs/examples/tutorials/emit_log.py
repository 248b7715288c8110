import os
import sys

from twisted.internet.task import react

from txamqp091 import ExchangeType, connect


async def main(reactor, *words):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    message = " ".join(words) or "info: Hello World!"
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.exchange_declare("logs", ExchangeType.FANOUT)
        await channel.basic_publish("logs", "", message)
        print(f" [x] Sent {message}")


react(main, sys.argv[1:])
