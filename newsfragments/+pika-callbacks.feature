``txamqp091.compat.pika`` has pika's connections with callbacks: ``SelectConnection``, ``AsyncioConnection`` and ``TornadoConnection``.  ``channel(7)`` opens a channel by its number.
