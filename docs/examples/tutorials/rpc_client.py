import os

from twisted.internet.task import react

from txamqp091.service import AMQPClientService, RPCClient


async def main(reactor):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    service = AMQPClientService(reactor, uri)
    client = RPCClient(service)
    service.startService()
    print(" [x] Requesting fib(20)")
    answer = await client.call("", "rpc_queue", "20", timeout=30)
    print(f" [.] Got {answer.body.decode()}")
    await service.stopService()


react(main)
