"""The mock provider: a product feature and our test partner.

It speaks every provider's dialect over real sockets, and misbehaves in every way a request asks for.
"""
