"""The mock provider: a product feature and our test partner.

It speaks OpenAI chat completions over real sockets, and misbehaves in every way a request asks for.
"""
