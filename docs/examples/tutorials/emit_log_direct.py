import os
import sys

from twisted.internet.task import react

from txamqp091 import ExchangeType, connect


async def main(reactor, severity="info", *words):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    message = " ".join(words) or "Hello World!"
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.exchange_declare("direct_logs", ExchangeType.DIRECT)
        await channel.basic_publish("direct_logs", severity, message)
        print(f" [x] Sent {severity}: {message}")


react(main, sys.argv[1:])
