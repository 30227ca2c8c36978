"""Gets a stream: which target, how long each phase may take."""
