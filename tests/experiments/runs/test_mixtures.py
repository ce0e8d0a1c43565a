import numpy as np

from latentmix.experiments.options.mixture_fits import MixtureFits
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.mixtures import fit_mixtures
from latentmix.inference import NUTS, SVI


def test_the_warmup_of_nuts_is_an_option():
    random = np.random.default_rng(0)
    train, test = (LatentSplit(random.normal(size=(40, 2)), None) for _ in range(2))
    nuts = NUTS(draws=4, chains=1, warmup=3)
    settings = MixtureFits(2, "diag", n_init=1, svi=SVI(epochs=3), nuts=nuts, posterior=None)
    told = []
    mixtures, figures = fit_mixtures(
        train, test, (), settings, labels_per_class=0, seed=0, label_seed=0, tell=told.append
    )
    assert (figures["nuts"]["warmup"], figures["nuts"]["draws"]) == (3, 4)
    assert mixtures["nuts"]["none"].mixture.n_iter_ == 7
    assert any(sentence.startswith("NUTS: ") and "effective sample size" in sentence for sentence in told)
    assert len(figures["nuts"]["modes"]) == 1
    assert figures["nuts"]["mode_gaps"][0] == 0.0
    assert figures["nuts"]["max_tree_depth"] >= 0
