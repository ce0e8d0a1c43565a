import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch.masked import masked_tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

from latentmix.inference import evaluate, fit
from latentmix.inference.svi.state import TrainingState

X = torch.linspace(-1, 3, 100)


def model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("data", 100, subsample=x):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def losses(data, **options):
    return fit(model, AutoNormal(model), data, **{"epochs": 2, "seed": 0, **options}).losses


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return X[index] + torch.randn(())


def test_fit_trains_on_a_loader_as_on_its_tensors():
    expected = losses(X, batch_size=30)
    before = torch.get_rng_state()
    for loader in (
        DataLoader(TensorDataset(X), batch_size=30),
        DataLoader(X, batch_size=30, shuffle=True),
        DataLoader(X.numpy(), batch_size=30),
    ):
        assert losses(loader) == expected
    assert losses(DataLoader(X, batch_size=10), batch_size=30) == expected
    assert losses(DataLoader(Noisy(), batch_size=30)) == losses(DataLoader(Noisy(), batch_size=30))
    assert torch.equal(before, torch.get_rng_state())


def test_loaders_of_labels_go_through_the_transform():
    loader = DataLoader(TensorDataset(X, torch.arange(100)), batch_size=30, shuffle=True)
    assert losses(loader, transform=lambda x, y: x) == losses(X, batch_size=30)


def test_loaders_are_taken_for_validation_and_evaluation():
    loader = DataLoader(TensorDataset(X), batch_size=30)
    loaded, expected = (fit(model, AutoNormal(model), X, epochs=1, seed=0, validation=v) for v in (loader, X))
    assert loaded.validation_losses == expected.validation_losses
    guide = AutoNormal(model)
    store = fit(model, guide, X, epochs=1, seed=0).store
    assert evaluate(model, guide, loader, store=store) == evaluate(model, guide, X, store=store)


def test_a_fit_to_a_loader_is_resumed():
    loader = DataLoader(TensorDataset(X), batch_size=30, shuffle=True)
    state, guide = TrainingState(), AutoNormal(model)
    first = fit(model, guide, loader, epochs=1, seed=0, state=state)
    with pyro.get_param_store().scope(first.store):
        again = fit(model, guide, loader, epochs=2, state=state)
    assert again.losses == losses(X, batch_size=30)


@pytest.mark.parametrize(
    ("loader", "named"),
    [
        (DataLoader(X, sampler=WeightedRandomSampler([1.0] * 100, 100)), "WeightedRandomSampler"),
        (DataLoader(X, sampler=RandomSampler(X, replacement=True)), "a RandomSampler with replacement"),
        (DataLoader(X, sampler=RandomSampler(X, num_samples=50)), "a RandomSampler with"),
        (DataLoader(X, batch_sampler=[[0, 1], [2]]), "a batch_sampler, list"),
        (DataLoader(X, batch_size=None), "batch_size=None"),
        (DataLoader(Stream()), "Stream"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_loaders_that_do_not_give_each_datum_once_are_refused(loader, named):
    with pytest.raises(ValueError, match=f"Expected a DataLoader over a data set of known length.*got {named}"):
        losses(loader)


def test_loaders_of_other_things_than_tensors_are_refused():
    for data in ([{"a": 1.0}], ["a", "b"]):
        with pytest.raises(ValueError, match="Expected a DataLoader of tensors, or of tuples of them; got"):
            losses(DataLoader(data))


@pytest.mark.filterwarnings("ignore:.*MaskedTensors")
def test_masked_tensors_are_refused():
    with pytest.raises(ValueError, match="Expected plain tensors; got a torch MaskedTensor"):
        losses(masked_tensor(X, X > 0))


def test_drop_last_of_a_loader_is_used() -> None:
    loader = DataLoader(X, batch_size=30, drop_last=True)
    result = fit(model, AutoNormal(model), loader, epochs=1, seed=0)
    assert result.state.drop_last
