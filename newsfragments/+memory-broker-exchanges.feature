``MemoryBroker`` has the exchange types ``x-consistent-hash``, ``x-modulus-hash`` (as 4.3) and ``x-local-random`` (as 4.0), and the exchange ``amq.rabbitmq.trace``.
