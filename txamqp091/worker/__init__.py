"""
Calls handlers for messages: `ConsumerService`, its failure policy, and retries.
"""
