"""
Promises that cross modules: secrets, bounds, counts, silence, texts.
"""
