"""The Gaussian mixture as a Pyro model: covariance structures, parameters, priors."""
