"""Public doubles and conformance checks, for our tests and for yours."""
