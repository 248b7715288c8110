``MemoryBroker`` checks the arguments of queues and consumers as RabbitMQ 3.10 or 4.3 does, refuses floats that are not finite, and delays retries (``x-delayed-retry-type``) as 4.3 does.
