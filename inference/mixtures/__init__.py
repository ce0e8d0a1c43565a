"""Gaussian mixtures: EM, SVI with the component enumerated, and the estimators in scikit-learn's manner."""
