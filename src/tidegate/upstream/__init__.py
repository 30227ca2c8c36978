"""The provider's side: rows of providers, a pool of HTTP/1.1 connections, and the innermost opening."""
