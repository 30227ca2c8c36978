"""The mock's answers, in every provider's dialect: one module a dialect, each with its speaker. Pure.

Written from the providers' own references, and on purpose without the gateway's dialects: what is a mistake there must not be
one here as well.
"""
