"""scikit-learn's checks of what an estimator must do, with no expected failures."""

import warnings
from collections.abc import Callable

from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture

_ESTIMATORS = [
    GaussianMixture(),
    GaussianMixture(2, covariance_type="diag", max_iter=20, init_params="k-means++"),
    BayesianGaussianMixture(),
    BayesianGaussianMixture(n_components=2, covariance_type="spherical", max_iter=20),
]


@parametrize_with_checks(_ESTIMATORS)
def test_estimator(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(estimator)
