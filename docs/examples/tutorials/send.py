import os

from twisted.internet.task import react

from txamqp091 import connect


async def main(reactor):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.queue_declare("hello")
        await channel.basic_publish("", "hello", "Hello World!")
        print(" [x] Sent 'Hello World!'")


react(main)
