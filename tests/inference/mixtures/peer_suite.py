"""A pytest plugin under which scikit-learn's own tests of mixtures meet the classes of LatentMix.

`python -m pytest -p peer_suite --pyargs sklearn.mixture.tests.test_mixture ...`, with this folder on `PYTHONPATH`:
`test_sklearn_suite.py` runs it in a process of its own. What became of each test is written as JSON to the file that
`PEER_SUITE_OUTCOMES` names.
"""

import json
import os
from pathlib import Path

import numpy as np
import sklearn.mixture
import torch
from sklearn.base import clone

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture

_ALONE = "its subject is a private function of scikit-learn, and none of ours takes part: "

DESELECTED = {
    "test_suffstat_sk_full": _ALONE + "_estimate_gaussian_covariances_full",
    "test_suffstat_sk_tied": _ALONE + "_estimate_gaussian_covariances_tied",
    "test_suffstat_sk_diag": _ALONE + "_estimate_gaussian_covariances_diag",
    "test_gaussian_suffstat_sk_spherical": _ALONE + "_estimate_gaussian_covariances_spherical",
    "test_compute_log_det_cholesky": _ALONE + "_compute_log_det_cholesky",
    "test_gaussian_mixture_log_probabilities": _ALONE + "_estimate_log_gaussian_prob",
    "test_log_dirichlet_norm": _ALONE + "_log_dirichlet_norm",
    "test_log_wishart_norm": _ALONE + "_log_wishart_norm",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": (
        "it counts the calls of a private function of scikit-learn's, _estimate_gaussian_parameters"
    ),
    "test_gaussian_mixture_raises_where_array_api_not_implemented": (
        "it wants k-means starts of arrays other than NumPy's to be refused: ours has them (skipped there too, unless "
        "array-API dispatch is set up)"
    ),
}

# Three tests call private methods on their way to what they are about. Those calls are put into public terms here.


def _set_parameters(self, params) -> None:
    """Attributes that somebody sets by hand: weights, means, covariances and factors of the precisions."""
    self.weights_, self.means_, self.covariances_, self.precisions_cholesky_ = params
    self.precisions_ = self.parameters_.structure.precisions(torch.as_tensor(params[3])).numpy()


def _start(self, X, given) -> None:
    """No iterations: the attributes are those of the start."""
    drawn = isinstance(given, np.random.RandomState)
    options = {"random_state": given} if drawn else {"n_components": given.shape[1]}
    started = clone(self).set_params(max_iter=0, **options).fit(X)
    self.__dict__.update({name: value for name, value in vars(started).items() if name.endswith("_")})


TRANSLATED = {
    "_set_parameters": _set_parameters,
    "_initialize": _start,
    "_initialize_parameters": _start,
    "_check_parameters": lambda self, X: None,
}

_found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": [], "deselected": []}


def pytest_configure(config) -> None:
    """Put our classes in the place of scikit-learn's before a test module is imported."""
    for ours in (GaussianMixture, BayesianGaussianMixture):
        setattr(sklearn.mixture, ours.__name__, type(ours.__name__, (ours,), TRANSLATED))


def pytest_collection_modifyitems(config, items) -> None:
    """Leave out what the table names."""
    kept = [item for item in items if item.originalname not in DESELECTED]
    _found["deselected"] = sorted({item.originalname for item in items} & set(DESELECTED))
    items[:] = kept


def pytest_runtest_logreport(report) -> None:
    """Note what became of a test."""
    if report.when == "call" or (report.when == "setup" and not report.passed):
        _found[report.outcome].append(report.nodeid.split("::")[-1])


def pytest_sessionfinish(session) -> None:
    """Write it down."""
    if path := os.environ.get("PEER_SUITE_OUTCOMES"):
        Path(path).write_text(json.dumps(_found))
