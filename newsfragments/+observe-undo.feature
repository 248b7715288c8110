``AMQPProtocol.observe_blocked`` and ``Channel.observe_returns`` return a function that ends the observation.
