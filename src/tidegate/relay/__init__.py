"""Bytes to the client: frame boundaries, flow control, usage."""
