import os
import sys

from twisted.internet.task import react

from txamqp091 import ExchangeType, connect


async def main(reactor, *severities):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.exchange_declare("direct_logs", ExchangeType.DIRECT)
        declared = await channel.queue_declare("", exclusive=True)
        for severity in severities:
            await channel.queue_bind(declared.queue, "direct_logs", severity)
        print(" [*] Waiting for logs. To exit press CTRL+C")
        async for delivery in channel.consume(declared.queue, auto_ack=True):
            print(f" [x] {delivery.routing_key}: {delivery.body.decode()}")


react(main, sys.argv[1:])
