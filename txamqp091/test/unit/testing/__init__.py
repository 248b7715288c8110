"""
Tests of `txamqp091.testing`.
"""
