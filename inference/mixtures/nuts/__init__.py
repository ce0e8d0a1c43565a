"""NUTS on the mixture's Pyro model."""
