"""State dicts, digests, trials and caches of weights, with real files and a real local server."""

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.backbones import hub
from bench.backbones.assemble import Parts, assemble, measure_feature_dim
from bench.backbones.configuration import find_configuration
from bench.backbones.weights import (
    explain_strict_failure,
    load_complete,
    read_state_dict,
    recorded_loads,
    seeded,
    weights_digest,
)
from bench.environment import hub_cache_dir
from bench.errors import BackboneError, WeightsMismatchError, WeightsMissingError
from bench.interfaces import Backbone, HubFiles
from bench.record import Preprocessing
from bench.spec import BackboneSpec
from bench.transfer.cache import torch_checkpoint_dir

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OWN = Preprocessing(image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, crop_fraction=0.875)


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pickles_are_read_and_unwrapped(tmp_path: Path, wrap: str, prefix: str) -> None:
    state = {f"{prefix}weight": torch.ones(2)}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "x.pth")
    assert torch.equal(read_state_dict(tmp_path / "x.pth")["weight"], torch.ones(2))


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "x.safetensors")
    assert list(read_state_dict(tmp_path / "x.safetensors")) == ["weight"]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": Path}, tmp_path / "x.pth")
    with pytest.raises(BackboneError, match=r"x.pth is not a plain checkpoint: .* safetensors"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict but list"),
        ({}, "holds no state dict but dict"),
        ({"weight": torch.ones(1), "epoch": 3}, "entries that are not tensors: epoch. Known wrap"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(BackboneError, match=message):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.safetensors", "absent.pth"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(BackboneError, match=f"cannot read weights from .*{name}"):
        read_state_dict(tmp_path / name)


def test_a_mismatch_names_missing_unexpected_and_wrong_tensors() -> None:
    state = {"weight": torch.ones(3, 3), **{f"extra{i:02}": torch.ones(1) for i in range(12)}}
    with pytest.raises(WeightsMismatchError) as caught:
        load_complete(nn.Linear(2, 3), state, source="mine")
    message = str(caught.value)
    assert message.startswith("mine: the weights do not fit the model. 1 missing: bias; ")
    assert "12 unexpected: extra00, " in message
    assert "extra09 and 2 more" in message
    assert "1 of the wrong shape: weight (3, 3) for (3, 2)" in message


def test_a_batch_norm_counter_alone_may_be_missing() -> None:
    module = nn.BatchNorm1d(2)
    state = {key: value + 1 for key, value in module.state_dict().items()}
    del state["num_batches_tracked"]
    load_complete(module, state, source="mine")
    assert torch.equal(module.running_mean, torch.ones(2))


def test_a_strict_failure_of_torch_is_told_in_our_words() -> None:
    state = {"weight": torch.ones(3, 3), "extra": torch.ones(1)}
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 3).load_state_dict(state)
    error = explain_strict_failure("mine", caught.value)
    assert isinstance(error, WeightsMismatchError)
    assert "1 missing: bias; 1 unexpected: extra; " in str(error)
    assert "1 of the wrong shape: weight (3, 3) for (3, 2)" in str(error)
    other = explain_strict_failure("mine", RuntimeError("no such model"))
    assert str(other) == "mine: cannot be built: no such model"


def test_lenient_loads_are_recorded_and_the_recorder_goes_away() -> None:
    original = nn.Module.load_state_dict
    with recorded_loads() as names:
        nn.Linear(2, 3).load_state_dict({"weight": torch.ones(3, 2)}, strict=False)
    assert names == ["", "bias"]
    assert nn.Module.load_state_dict is original


def test_the_digest_sees_names_values_types_and_buffers() -> None:
    with seeded(0):
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    digests = [weights_digest(module, architecture="net")]
    assert digests[0] == weights_digest(module, architecture="net")
    module[1].running_mean[0] += 1
    digests.append(weights_digest(module, architecture="net"))
    with torch.no_grad():
        module[0].weight[0, 0] += 1e-6
    digests.append(weights_digest(module, architecture="net"))
    digests.append(weights_digest(module.bfloat16(), architecture="net"))
    digests.append(weights_digest(nn.Sequential(*reversed(module)), architecture="net"))
    assert len(set(digests)) == len(digests)


def test_equal_tensors_in_another_architecture_have_another_digest() -> None:
    smooth, sharp = (nn.Sequential(nn.Conv2d(3, 3, 3), act) for act in (nn.GELU(), nn.ReLU()))
    sharp.load_state_dict(smooth.state_dict())
    digests = {weights_digest(net, architecture="net") for net in (smooth, sharp)}
    assert len(digests | {weights_digest(sharp, architecture="other")}) == 3


def test_the_digest_of_a_model_without_configuration_is_pinned() -> None:
    net = nn.Linear(2, 1)
    nn.init.ones_(net.weight)
    nn.init.zeros_(net.bias)
    known = "bb8898fc6be25990a530bfcea2db593a41ca886d291f5286bbd1b5f56da71470"
    assert weights_digest(net, architecture="net") == known
    assert weights_digest(net, architecture="net", configuration={"heads": 2}) != known
    assert find_configuration(net) is None


def test_a_configuration_is_found_within_and_cleared_at_every_depth() -> None:
    class Config:
        def to_diff_dict(self) -> dict[str, object]:
            inner = {"dtype": "float16", "heads": 2, "limits": (0.0, math.inf)}
            return {"_name_or_path": "/mine", "text": inner, "transformers_version": "5.0"}

    net = nn.Linear(2, 1)
    net.config = Config()
    wrapped = nn.Sequential(net)
    found = find_configuration(wrapped)
    assert found == {"text": {"heads": 2, "limits": (0.0, math.inf)}}
    assert len(weights_digest(wrapped, architecture="net", configuration=found)) == 64


class Odd(nn.Module):
    """Gives whatever it was told to give."""

    def __init__(self, give: object) -> None:
        super().__init__()
        self.give = give

    def forward(self, images: Tensor) -> object:
        return self.give(images) if callable(self.give) else self.give


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (torch.zeros(2, 3, 1), r"gives \(2, 3, 1\) for two images, not features of shape \(2, D\)"),
        ("text", "gives str for two images"),
        (torch.full((2, 3), float("nan")), "its features are not finite"),
        (
            lambda images: torch.rand(2, 3),
            "gives other .* forward pass draws at random",
        ),
        (lambda images: images @ torch.zeros(9, 9), "does not run on images of 8 x 8 pixels"),
    ],
)
def test_features_that_are_no_features_are_refused(give: object, message: str) -> None:
    with pytest.raises(BackboneError, match=f"odd: {message}"):
        measure_feature_dim(Odd(give), 8, name="odd")


def made(spec: BackboneSpec, *, image_size: int | None = None, dim: int | None = None) -> Backbone:
    parts = Parts(nn.Flatten(), OWN, (), "test", declared_dim=dim)
    return assemble(spec, parts, image_size=image_size)


def test_a_width_other_than_declared_is_an_error() -> None:
    with pytest.raises(BackboneError, match=r"x/y: its features are 192 wide, .* declares 7"):
        made(BackboneSpec(name="x/y"), dim=7)


def test_an_explicit_size_crops_nothing_and_the_own_size_keeps_its_crop() -> None:
    spec = BackboneSpec(name="x/y", mean=0.25)
    own = made(spec).preprocessing
    assert (own.image_size, own.crop_fraction, own.mean) == (8, 0.875, (0.25,) * 3)
    explicit = made(spec, image_size=16).preprocessing
    assert (explicit.image_size, explicit.crop_fraction, explicit.std) == (16, 1.0, (0.5,) * 3)


def put_in_hub_cache(repo: str, name: str, data: bytes, revision: str = "main") -> Path:
    folder = hub_cache_dir() / f"models--{repo.replace('/', '--')}"
    path = folder / "snapshots" / COMMIT / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text(COMMIT)
    return path


def test_a_cached_hub_file_is_found_by_branch_and_by_commit() -> None:
    path = put_in_hub_cache("a/b", "pytorch_model.bin", b"x")
    names = ("model.safetensors", "pytorch_model.bin")
    assert hub.find_hub_file("a/b", names) == path
    assert hub.find_hub_file("a/b", names, COMMIT) == path
    assert hub.find_hub_file("a/b", names, "other") is None
    assert hub.find_hub_file("a/c", names) is None


def test_cache_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/some/where")
    assert hub_cache_dir() == Path("/some/where")
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert hub_cache_dir() == Path("/cache/huggingface/hub")
    assert torch_checkpoint_dir() == Path("/cache/torch/hub/checkpoints")


def test_offline_a_missing_hub_file_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsMissingError) as caught:
        hub.fetch_from_hub(HubFiles("a/b", "v2", first_of=("model.safetensors",)))
    assert str(caught.value).startswith(
        "weights of a/b are not on this machine and HF_HUB_OFFLINE is set: on a machine with "
        "network run `hf download a/b model.safetensors --revision v2`, or `bench fetch` for all"
    )
    assert not hub.missing_from_hub(HubFiles("a/b")).downloadable
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub.missing_from_hub(HubFiles("a/b")).downloadable


def test_offline_a_missing_plain_file_says_where_to_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    with pytest.raises(WeightsMissingError) as caught:
        hub.fetch_url("weights of x", "https://example.org/net-01.pth")
    assert "download https://example.org/net-01.pth to" in str(caught.value)
    assert str(torch_checkpoint_dir() / "net-01.pth") in str(caught.value)


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"x/y: checkpoint .*absent.pth does not exist"):
        hub.local_file(str(tmp_path / "absent.pth"), name="x/y")


def test_a_file_whose_name_claims_another_digest_is_not_called_the_published_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "net-00000000.pth"
    path.write_bytes(b"mine")
    begins = hashlib.sha256(b"mine").hexdigest()[:8]
    assert hub.describe_file(path) == (
        f"net-00000000.pth, NOT the published file: sha256 begins {begins}"
    )
    assert hub.describe_file(path.rename(tmp_path / "plain.pth")) == "plain.pth"
