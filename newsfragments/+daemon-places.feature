The daemon's settings ``srv`` and ``endpoint`` connect to the nodes that SRV records name, or through any endpoint, such as a Unix socket.
