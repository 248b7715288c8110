"""
Tests of the Twisted client: connections, channels, consumers.
"""
