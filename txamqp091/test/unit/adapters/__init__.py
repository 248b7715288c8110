"""
Tests of `txamqp091.adapters`.
"""
