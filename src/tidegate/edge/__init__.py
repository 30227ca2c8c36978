"""The client's side: sockets, TLS and drain, our HTTP/1.1 server protocol, and everything not hot behind uvicorn."""
