"""May it run? Identity, and the catalogue of models."""
