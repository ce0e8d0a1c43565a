"""The negative log-density of a mixture's posterior over unconstrained values, its modes and its curvature."""
