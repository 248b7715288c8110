"""
Tests of `txamqp091.wire`.
"""
