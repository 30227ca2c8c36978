"""What frames mean, and how a request is written."""
