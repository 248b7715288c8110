"""
One script per client, each with the same cases: ``measure.py`` says what they share.
"""
