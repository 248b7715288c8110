"""
The process that ``twistd amqp-consumer`` runs: settings, signals, admin site, logs.
"""
