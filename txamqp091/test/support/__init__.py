"""
What tests share: peers, nodes, proxies, histories; and the tests of these.
"""
