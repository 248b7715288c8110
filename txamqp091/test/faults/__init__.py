"""
Tests in which brokers, networks and streams fail.
"""
