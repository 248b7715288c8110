"""
The command line: ``txamqp091``, or ``python -m txamqp091``.
"""
