"""
The tests of one module each, by subject; none needs a broker.
"""
