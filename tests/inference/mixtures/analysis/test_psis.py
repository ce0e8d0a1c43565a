import math

import numpy as np
import pytest

from latentmix.inference.mixtures.analysis.psis import importance_shape


@pytest.mark.parametrize("shape", [0.2, 0.6, 1.0])
def test_the_shape_of_importance_ratios_is_that_of_their_tail(shape: float) -> None:
    # The exponential of an exponential variable of scale k is Pareto of shape k.
    log_ratios = np.random.RandomState(0).exponential(shape, 20_000)
    assert importance_shape(log_ratios) == pytest.approx(shape, abs=0.1)


def test_few_ratios_or_infinite_ones_have_no_shape() -> None:
    assert math.isnan(importance_shape(np.zeros(10)))
    assert math.isnan(importance_shape(np.full(100, -np.inf)))
