"""
Tests of the repository: architecture, exports, documentation, packaging.
"""
