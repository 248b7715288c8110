``Delivery`` has ``delivery_count``, ``acquired_count``, ``deaths`` (typed ``x-death``) and, for
``basic_get``, ``message_count``.  ``ExchangeType`` and ``DeliveryMode`` name what AMQP knows.
