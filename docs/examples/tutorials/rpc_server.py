import os

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txamqp091.service import AMQPClientService, Queue, RPCServer, Topology

TOPOLOGY = Topology.of(Queue(name="rpc_queue"))


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def answer(request):
    n = int(request.body)
    print(f" [.] fib({n})")
    return str(fibonacci(n))


async def main(reactor):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    service = AMQPClientService(reactor, uri, topology=TOPOLOGY)
    RPCServer(service, "rpc_queue", answer)
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    await service.when_ready()
    print(" [x] Awaiting RPC requests. To exit press CTRL+C")
    await Deferred()  # it never fires: Ctrl-C stops the reactor


react(main)
