``MemoryBroker.listen()`` can serve ``amqps``: ``tls`` takes the options of a certificate, as Twisted has them.
