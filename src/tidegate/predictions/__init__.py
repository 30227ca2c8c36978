"""Predictions: what a client of a model of our own asks for, follows, comes back to and cancels.

A prediction is the client of its own exchange: it is admitted, waits for a slot and is recorded as any other, and outlives
the request that made it. Those who asked are subscribers of its history.
"""
