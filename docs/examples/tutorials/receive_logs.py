import os

from twisted.internet.task import react

from txamqp091 import ExchangeType, connect


async def main(reactor):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.exchange_declare("logs", ExchangeType.FANOUT)
        declared = await channel.queue_declare("", exclusive=True)
        await channel.queue_bind(declared.queue, "logs")
        print(" [*] Waiting for logs. To exit press CTRL+C")
        async for delivery in channel.consume(declared.queue, auto_ack=True):
            print(f" [x] {delivery.body.decode()}")


react(main)
