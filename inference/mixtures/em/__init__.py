"""EM and variational Bayes: additive statistics over points."""
