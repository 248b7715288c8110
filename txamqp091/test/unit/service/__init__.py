"""
Tests of `txamqp091.service`.
"""
