"""
What txamqp091 costs, beside other clients: ``python -m benchmarks``.  The method is in
``README.rst``.
"""
