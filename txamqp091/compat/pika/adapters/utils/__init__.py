"""
What pika's adapters have beside connections.
"""
