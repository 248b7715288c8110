Log lines have fixed namespaces, such as ``txamqp091.connection``, that do not change when modules move.
