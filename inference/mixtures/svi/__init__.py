"""SVI of the mixture's Pyro model, with the component enumerated."""
