"""EM and variational Bayes on additive statistics of points.

`em.fit_em` reads as the algorithm does: `e_step` (`ExactEStep`; of other points `missing.IncompleteEStep` and
`deconvolution.NoisyEStep`) gives `statistics.SufficientStatistics`, of which `m_step.maximize` makes parameters;
`empty` resets components without points, and `initialization` seeds them. In the order in which files import each
other: `statistics`, `covariance_priors`, `kernels` (log joints and moments of blocks of points), `density`, `e_step`,
`completion`, `missing`, `deconvolution`, `m_step`, `empty`, `initialization`, and the algorithms `em`, `stepwise`,
`conjugate`, `predictive` and `variational`.
"""
