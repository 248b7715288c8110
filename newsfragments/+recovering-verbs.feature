``RecoveringChannel`` has verbs: ``channel.basic_publish(...)`` in place of
``channel.call(Channel.basic_publish, ...)``.  ``AMQPClientService.declare`` fires when the
broker has answered for all entities, also if a connection is lost meanwhile.
