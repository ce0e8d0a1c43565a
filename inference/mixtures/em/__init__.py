"""EM and variational Bayes on additive statistics of points.

In the order in which files import each other: `statistics` (`SufficientStatistics`), `covariance_priors`, `kernels`
(log joints and moments of blocks of points), `density`, `e_step` (`EStep`, `ExactPoints`), `m_step` (`maximize`),
`missing` and `deconvolution` (the E steps of incomplete and of noisy points), `empty`, `memberships`,
`initialization`, and the algorithms `em`, `stepwise`, `conjugate` and `variational`.
"""
