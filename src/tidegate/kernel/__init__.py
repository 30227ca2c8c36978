"""Mechanisms that two rooms need. Synchronous and small; nothing moves here for one user."""
