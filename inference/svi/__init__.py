"""SVI of any Pyro model and guide."""

from latentmix.inference.svi.fit import SVIResult, fit

__all__ = ["SVIResult", "fit"]
