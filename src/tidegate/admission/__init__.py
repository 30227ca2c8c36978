"""May it run? Connections, memory, identity, rates, deadlines, and the catalogue of models."""
