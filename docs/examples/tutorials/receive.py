import os

from twisted.internet.task import react

from txamqp091 import connect


async def main(reactor):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.queue_declare("hello")
        print(" [*] Waiting for messages. To exit press CTRL+C")
        async for delivery in channel.consume("hello"):
            print(f" [x] Received {delivery.body.decode()}")
            delivery.ack()


react(main)
