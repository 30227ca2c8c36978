"""A model to try the gateway with: small, real, and without a key."""
