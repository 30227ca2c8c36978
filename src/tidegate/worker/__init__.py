"""A model in our own child processes: one more innermost Service. The parent's side is here, the process's in `child`."""
