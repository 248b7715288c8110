"""
The tests of `txamqp091`.  The modules mirror those that they test; run them with
``pytest`` or ``trial txamqp091``.
"""
