"""
Tests of `txamqp091.worker`.
"""
