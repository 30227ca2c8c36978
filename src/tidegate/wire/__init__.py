"""Where frames end. Sans-IO: bytes in, frames out, a limit on everything."""
