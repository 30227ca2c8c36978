"""The mock provider: a product feature and our test partner."""
