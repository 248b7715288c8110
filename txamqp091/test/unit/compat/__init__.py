"""
Tests of `txamqp091.compat`.
"""
