from __future__ import annotations

import json
import subprocess
import sys
from inspect import isabstract
from pathlib import Path
from typing import final
from unittest import mock

import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import latentmix.guides  # noqa: F401  (its parts are listed too)
from latentmix.models import VAE, Bernoulli, Decoder, MixturePrior, MLPDecoder, Prior, StandardNormal
from latentmix.models.distributions import _LogNormalizer
from latentmix.models.pretrained import Part, build, describe, load_pretrained, public_path


def vae(hidden: int = 16) -> VAE:
    decoder = MLPDecoder(latent_dim=2, hidden=(hidden,), shape=(1, 4, 4))
    return VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())


@final
class OwnDecoder(Decoder):
    def __init__(self, latent_dim: int, shape: tuple[int, ...], width: int) -> None:
        super().__init__(latent_dim, shape)
        self.width = width
        self.layer = nn.Linear(latent_dim, width)
        self.out = nn.Linear(width, 16)

    def decode(self, z: Tensor) -> Tensor:
        values: Tensor = self.out(self.layer(z))
        return values.reshape(-1, 1, *self.shape)


@final
class Forgetful(Decoder):
    def __init__(self, latent_dim: int, shape: tuple[int, ...], width: int) -> None:
        super().__init__(latent_dim, shape)

    def decode(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), 1, *self.shape)


def test_round_trip(tmp_path: Path) -> None:
    original = vae()
    original.save_pretrained(tmp_path / "new" / "folder")
    copy = VAE.from_pretrained(tmp_path / "new" / "folder")
    z = torch.randn(3, 2)
    assert torch.equal(copy.decode(z), original.decode(z))
    assert copy.decoder.shape == (1, 4, 4)


def test_a_part_is_loaded_without_the_classes_of_the_others(tmp_path: Path) -> None:
    original = vae()
    original.save_pretrained(tmp_path)
    file = tmp_path / "vae.json"
    file.write_text(file.read_text().replace("latentmix.models.StandardNormal", "of_nobody.Prior"))
    decoder = load_pretrained(tmp_path, "vae", MLPDecoder, part="decoder")
    z = torch.randn(3, 2)
    assert torch.equal(decoder(z), original.decoder(z))
    with pytest.raises(ValueError, match=r"Expected the class of_nobody\.Prior to be imported"):
        load_pretrained(tmp_path, "vae", StandardNormal, part="prior")
    with pytest.raises(ValueError, match=r"^Expected .* a module in .*vae\.json"):
        load_pretrained(tmp_path, "vae", MLPDecoder, part="encoder")


def concrete_parts() -> list[type]:
    def below(kind: type) -> list[type]:
        return [kind, *(each for child in kind.__subclasses__() for each in below(child))]

    kinds = {kind for kind in below(Part) if kind.__module__.startswith("latentmix.") and not isabstract(kind)}
    return sorted(kinds - {Part}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", concrete_parts())
def test_every_concrete_part_is_saved_under_the_name_that_its_room_exports(kind: type) -> None:
    room = ".".join(kind.__module__.split(".")[:2])
    assert kind.__name__ in sys.modules[room].__all__
    assert public_path(kind) == f"{room}.{kind.__name__}"


def test_files_name_public_paths(tmp_path: Path) -> None:
    vae().save_pretrained(tmp_path)
    described = json.loads((tmp_path / "vae.json").read_text())
    assert described["class_path"] == "latentmix.models.VAE"
    assert described["init_args"]["decoder"]["class_path"] == "latentmix.models.MLPDecoder"


@pytest.mark.parametrize("module", ["networks", "networks.bodies", "a_file_that_is_gone"])
def test_files_that_name_a_private_path_load(tmp_path: Path, module: str) -> None:
    original = vae()
    original.save_pretrained(tmp_path)
    text = (tmp_path / "vae.json").read_text()
    (tmp_path / "vae.json").write_text(text.replace("models.MLPDecoder", f"models.{module}.MLPDecoder"))
    z = torch.randn(3, 2)
    assert torch.equal(VAE.from_pretrained(tmp_path).decode(z), original.decode(z))


def test_a_class_that_cannot_be_found_again_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    @final
    class Local(Prior):
        def forward(self) -> dist.TorchDistribution:
            return dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1)

    local = VAE(decoder=vae().decoder, prior=Local(2), likelihood=Bernoulli())
    with pytest.raises(ValueError, match=r"a class that can be found again by its path .*Local; got a private or a lo"):
        local.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_class_that_its_room_does_not_export_is_refused() -> None:
    with pytest.raises(ValueError, match=r"by its path latentmix.models._LogNormalizer; got a private or a local one"):
        public_path(_LogNormalizer)


def test_a_users_own_part_is_saved_and_loaded(tmp_path: Path) -> None:
    original = VAE(decoder=OwnDecoder(2, (1, 4, 4), width=5), prior=StandardNormal(2), likelihood=Bernoulli())
    original.save_pretrained(tmp_path)
    copy = VAE.from_pretrained(tmp_path)
    assert isinstance(copy.decoder, OwnDecoder)
    assert torch.equal(copy.decode(torch.ones(1, 2)), original.decode(torch.ones(1, 2)))


def test_an_argument_that_is_not_kept_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    bad = VAE(decoder=Forgetful(2, (1, 4, 4), width=5), prior=StandardNormal(2), likelihood=Bernoulli())
    with pytest.raises(ValueError, match="Forgetful to keep its argument 'width'"):
        bad.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_values_that_are_not_plain_are_refused() -> None:
    with pytest.raises(ValueError, match="plain values"):
        describe({"a": 1})


def test_weights_of_another_architecture_name_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    vae(hidden=16).save_pretrained(tmp_path)
    save_file(vae(hidden=17).state_dict(), tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match=r"'decoder.body.0.bias' of shape \(16,\); got \(17,\)"):
        VAE.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "vae.pt", "model.ckpt", "model.pkl"])
def test_pickled_weights_are_never_opened(tmp_path: Path, name: str) -> None:
    vae().save_pretrained(tmp_path)
    (tmp_path / "vae.safetensors").unlink()
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ValueError, match=f"got {name}, which can run code when it is opened and never is"):
        VAE.from_pretrained(tmp_path)


def test_no_module_is_imported_for_a_description(tmp_path: Path) -> None:
    vae().save_pretrained(tmp_path)
    described = json.loads((tmp_path / "vae.json").read_text())
    described["init_args"]["decoder"]["class_path"] = "antigravity.Decoder"
    (tmp_path / "vae.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"Expected the class antigravity.Decoder to be imported before"):
        VAE.from_pretrained(tmp_path)


@pytest.mark.parametrize("place", ["whole", "argument"])
def test_only_parts_are_built(tmp_path: Path, place: str) -> None:
    vae().save_pretrained(tmp_path)
    described = json.loads((tmp_path / "vae.json").read_text())
    harmful = {"class_path": "subprocess.Popen", "init_args": {"args": f"touch {tmp_path}/executed", "shell": True}}
    described["init_args"]["decoder"] = harmful
    (tmp_path / "vae.json").write_text(json.dumps(harmful if place == "whole" else described))
    with (
        mock.patch.object(subprocess.Popen, "__init__", return_value=None) as called,
        pytest.raises(ValueError, match=r"Expected a part .* the class subprocess.Popen, which is none"),
    ):
        VAE.from_pretrained(tmp_path)
    called.assert_not_called()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept_and_nothing_is_drawn(tmp_path: Path, dtype: torch.dtype) -> None:
    decoder = MLPDecoder(latent_dim=2, hidden=(3,), shape=(1, 4, 4))
    original = VAE(decoder=decoder, prior=MixturePrior(2, 3), likelihood=Bernoulli()).to(dtype)
    original.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    copy = VAE.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in original.state_dict().items():
        assert value.dtype == copy.state_dict()[name].dtype == dtype
        assert torch.equal(value, copy.state_dict()[name])


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"class_path": "latentmix.models.StandardNormal"}', '{"class_path": 3}', "3"]
)
def test_invalid_descriptions_are_refused(tmp_path: Path, text: str) -> None:
    vae().save_pretrained(tmp_path)
    (tmp_path / "vae.json").write_text(text)
    with pytest.raises(ValueError, match=r"Expected the description of (a module|VAE) in"):
        VAE.from_pretrained(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected vae.json in .*; it is not there"):
        VAE.from_pretrained(tmp_path)
    vae().save_pretrained(tmp_path)
    (tmp_path / "vae.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="Expected safetensors in"):
        VAE.from_pretrained(tmp_path)


def test_build_is_the_inverse_of_describe() -> None:
    original = vae()
    assert describe(build(describe(original))) == describe(original)


@pytest.mark.parametrize("content", ["null", "3", "[]", "{}"])
def test_the_description_of_no_module_is_refused(tmp_path: Path, content: str) -> None:
    vae = VAE(decoder=MLPDecoder(2, (3,), [4]), prior=StandardNormal(2), likelihood=Bernoulli())
    vae.save_pretrained(tmp_path)
    (tmp_path / "vae.json").write_text(content)
    with pytest.raises(ValueError, match=r"^Expected the description .*vae\.json; got (?!NoneType).*: restore"):
        VAE.from_pretrained(tmp_path)
