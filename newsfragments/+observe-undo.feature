``Channel.observe_returns`` returns a function that ends the observation.
