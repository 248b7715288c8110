"""
Tests of `txamqp091.daemon` and of the ``twistd`` command.
"""
