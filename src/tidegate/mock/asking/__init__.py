"""Requests of every provider's dialect, read as strictly as the providers read them. Pure: no sockets, no clock.

`routes` says which dialect a path speaks, and reads a request with the module that is named like the dialect.
"""
