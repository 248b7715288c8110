``txamqp091`` also exports ``AMQPClientService``, ``Publisher``, ``Queue``, ``Exchange``,
``Binding``, ``Topology``, ``RetryPolicy``, ``RPCClient``, ``RPCServer``,
``ConsumerService``, ``Reject``, ``Requeue``, ``Retry`` and ``Halt``.  They are imported
when they are first used.  A new page says what is public, and how long a deprecation lasts.
