"""Downloads from a stand-in hub on loopback, well and with every fault; no other network."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
import transformers
from huggingface_hub import constants, hf_hub_download, scan_cache_dir

from bench.artifacts import ArtifactCache
from bench.backbones import hub as weights_hub
from bench.backbones import torchvision as torchvision_backbones
from bench.backbones.hf import HubSource
from bench.backbones.timm import TimmSource
from bench.backbones.torchvision import TorchvisionSource
from bench.catalogue import torchvision_catalogue
from bench.datasets.hf import HubDataSource
from bench.environment import find_snapshot, hub_cache_dir
from bench.errors import BackboneError, BenchError, TransferError, WeightsMissingError
from bench.record import Preprocessing, Progress, TextPreprocessing
from bench.spec import BackboneSpec, DatasetSpec
from bench.transfer import files
from bench.transfer.cache import torch_checkpoint_dir
from bench.transfer.sizes import measure_sizes
from bench.transfer.tracking import silent
from tests.hub_server import Kind, StandInHub, standing_in
from tests.texts import save_text_model

SPEC = BackboneSpec(name="hf/me/tiny")
SOURCE = HubSource()
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}
AGAIN = "Run it again: what has arrived is kept, and the download goes on from there"


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole repository: a tiny vision transformer with random weights."""
    folder = tmp_path_factory.mktemp("model")
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "pytorch_model.bin").write_bytes(b"the same again, older" * 100)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A stand-in in force, caches of this test's own, little patience."""
    with standing_in() as stand_in:
        for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
        # The client reads these once, when it is imported, from the environment of the session.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(files, "_WAITS_SECONDS", (0.0, 0.0))
        yield stand_in


@pytest.fixture
def commit(hub: StandInHub, model_files: dict[str, bytes]) -> str:
    return hub.add("me/tiny", model_files)


def fetch(spec: BackboneSpec = SPEC) -> list[Progress]:
    told: list[Progress] = []
    SOURCE.fetch(spec, told.append)
    return told


def test_a_repository_is_fetched_whole_at_its_commit_and_loads(
    hub: StandInHub, commit: str, model_files: dict[str, bytes]
) -> None:
    assert SOURCE.locate(SPEC).missing
    fetch()
    assert not SOURCE.locate(SPEC).missing
    assert find_snapshot("me/tiny") == hub_cache_dir() / "models--me--tiny" / "snapshots" / commit
    backbone = SOURCE.load(SPEC, image_size=None, seed=0)
    assert backbone.info.weights_source == f"hub me/tiny@{commit}"
    assert backbone.info.licence == "mit"
    assert hub.num_gets("/cdn/") == 1, "the pickle beside the safetensors is not fetched"
    hub.seen.clear()
    fetch()
    assert hub.seen == [], "what is here is not asked for again"


def test_the_hubs_own_client_finds_what_was_fetched_and_nothing_broken(
    hub: StandInHub, commit: str, model_files: dict[str, bytes]
) -> None:
    fetch()
    path = hf_hub_download(
        "me/tiny", "model.safetensors", cache_dir=hub_cache_dir(), local_files_only=True
    )
    assert Path(path).read_bytes() == model_files["model.safetensors"]
    info = scan_cache_dir(hub_cache_dir())
    assert not info.warnings
    (repository,) = info.repos
    (revision,) = repository.revisions
    assert (revision.commit_hash, revision.refs) == (commit, {"main"})
    assert repository.nb_files == 4


def test_a_load_without_a_fetch_before_downloads_by_itself(hub: StandInHub, commit: str) -> None:
    backbone = SOURCE.load(SPEC, image_size=None, seed=0)
    assert backbone.info.weights_source.endswith(commit)


SENTENCES = BackboneSpec(name="hf/me/sentences")


@pytest.fixture
def sentence_files(tmp_path: Path) -> dict[str, bytes]:
    """A repository whose pooling is told by a file that AutoModel and AutoTokenizer do not read."""
    folder = save_text_model(tmp_path / "sentences", "bert")
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**content, "1_Pooling/config.json": json.dumps({"pooling_mode": "mean"}).encode()}


def leave_as_another_program(name: str, commit: str, content: dict[str, bytes]) -> Path:
    """Put some files of a commit into the cache, and no note that this is all of them."""
    folder = hub_cache_dir() / f"models--{name.replace('/', '--')}"
    for path, data in content.items():
        (folder / "snapshots" / commit / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / commit / path).write_bytes(data)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def pooling_of(spec: BackboneSpec = SENTENCES) -> str | None:
    preprocessing = SOURCE.load(spec, image_size=None, seed=0).preprocessing
    assert isinstance(preprocessing, TextPreprocessing)
    return preprocessing.pooling


def test_what_another_program_left_out_is_fetched_at_the_commit_that_is_here(
    hub: StandInHub, sentence_files: dict[str, bytes]
) -> None:
    commit = hub.add("me/sentences", sentence_files)
    plain = {name: data for name, data in sentence_files.items() if "Pooling" not in name}
    snapshot = leave_as_another_program("me/sentences", commit, plain)
    newer = {**sentence_files, "1_Pooling/config.json": b'{"pooling_mode": "lasttoken"}'}
    hub.add("me/sentences", newer)
    located = SOURCE.locate(SENTENCES)
    (lack,) = located.missing
    assert located.files and lack.downloadable and lack.origin is not None
    assert lack.what == "any other files of me/sentences"
    assert measure_sizes([lack.origin]) == {
        lack.origin: len(sentence_files["1_Pooling/config.json"])
    }
    told = fetch(SENTENCES)
    assert told[-1].num_bytes == len(sentence_files["1_Pooling/config.json"])
    assert not SOURCE.locate(SENTENCES).missing
    assert find_snapshot("me/sentences") == snapshot
    assert pooling_of() == "mean"


def test_a_repository_that_has_no_more_is_asked_once(
    hub: StandInHub, sentence_files: dict[str, bytes]
) -> None:
    plain = {name: data for name, data in sentence_files.items() if "Pooling" not in name}
    leave_as_another_program("me/sentences", hub.add("me/sentences", plain), plain)
    fetch(SENTENCES)
    hub.seen.clear()
    assert not SOURCE.locate(SENTENCES).missing
    fetch(SENTENCES)
    backbone = SOURCE.load(SENTENCES, image_size=None, seed=0)
    assert hub.seen == [] and "perhaps" not in backbone.info.weights_source


def test_a_file_that_is_gone_again_is_missed(
    hub: StandInHub, sentence_files: dict[str, bytes]
) -> None:
    hub.add("me/sentences", sentence_files)
    fetch(SENTENCES)
    assert not SOURCE.locate(SENTENCES).missing and pooling_of() == "mean"
    snapshot = find_snapshot("me/sentences")
    assert snapshot is not None
    (snapshot / "1_Pooling" / "config.json").unlink()
    assert SOURCE.locate(SENTENCES).missing


def test_without_network_what_another_program_left_is_used_and_said(
    hub: StandInHub, sentence_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("me/sentences", sentence_files)
    plain = {name: data for name, data in sentence_files.items() if "Pooling" not in name}
    leave_as_another_program("me/sentences", commit, plain)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not SOURCE.locate(SENTENCES).missing
    assert fetch(SENTENCES) == [] and hub.seen == []
    source = SOURCE.load(SENTENCES, image_size=None, seed=0).info.weights_source
    assert source == f"hub me/sentences@{commit}, perhaps without its 1_Pooling/config.json"


def test_an_image_processor_that_another_program_left_out_is_fetched(
    hub: StandInHub, commit: str, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {name: model_files[name] for name in ("config.json", "model.safetensors")}
    leave_as_another_program("me/tiny", commit, plain)
    with monkeypatch.context() as without:
        without.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(BackboneError, match="has one, `bench fetch` brings it"):
            SOURCE.load(SPEC, image_size=None, seed=0)
    assert SOURCE.locate(SPEC).missing
    fetch()
    own = SOURCE.load(SPEC, image_size=None, seed=0).preprocessing
    assert isinstance(own, Preprocessing) and own.mean == (0.1, 0.2, 0.3)


def test_pickles_are_fetched_only_where_there_are_no_safetensors(
    hub: StandInHub, model_files: dict[str, bytes]
) -> None:
    old = {name: data for name, data in model_files.items() if name != "model.safetensors"}
    hub.add("me/tiny", old)
    fetch()
    names = {path.name for path in SOURCE.locate(SPEC).files}
    assert names == {"config.json", "preprocessor_config.json", "pytorch_model.bin"}


def test_a_revision_is_pinned_and_does_not_move_with_main(
    hub: StandInHub, model_files: dict[str, bytes]
) -> None:
    first = hub.add("me/tiny", model_files, branch="v1")
    second = hub.add("me/tiny", {**model_files, "README.md": b"newer"})
    for revision, commit in (("v1", first), (first, first), (None, second)):
        spec = BackboneSpec(name="hf/me/tiny", revision=revision)
        fetch(spec)
        source = SOURCE.load(spec, image_size=None, seed=0).info.weights_source
        assert source == f"hub me/tiny@{commit}"


def test_progress_says_what_and_how_many_bytes_of_how_many(
    hub: StandInHub, commit: str, model_files: dict[str, bytes]
) -> None:
    told = fetch()
    wanted = sum(len(data) for n, data in model_files.items() if n != "pytorch_model.bin")
    assert {(p.phase, p.item, p.total_bytes) for p in told} == {
        ("download", "weights of me/tiny", wanted)
    }
    counts = [p.num_bytes or 0 for p in told]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, wanted)


@pytest.mark.parametrize(
    ("pattern", "fault", "message"),
    [
        ("GET /api", 404, r"no such thing \(404\). Check the name; if it is private, log in with"),
        ("/", 401, r"\(401\): it is private, or .* `hf auth login`, or set HF_TOKEN to a token"),
        (
            "GET /api",
            403,
            r"gated \(403\). Ask for access at {url}/me/tiny, then log in wit",
        ),
        ("HEAD .*safetensors", 403, r"gated \(403\). Ask for access at {url}/me/tiny"),
        ("HEAD .*safetensors", 404, r"no such thing \(404\)"),
        ("GET /cdn", 404, r"no such thing \(404\)"),
        (
            "GET /cdn",
            403,
            rf"localhost:\d+, where its bytes lie, refuses access \(403\)\. {AGAIN}; if it stays",
        ),
        ("GET /api", 503, rf"answered 503 each time. It is down or busy. {AGAIN}"),
        ("HEAD .*safetensors", 503, "answered 503 each time"),
        ("GET /cdn", 503, "answered 503 each time"),
        ("GET /cdn", 429, "answered 429 each time"),
        ("GET /api", "hang", rf"no answer within 1 s, each time. {AGAIN}; HF_HUB_DOWNLOAD_TIMEO"),
        ("HEAD .*safetensors", "hang", "no answer within 1 s, each time"),
        ("GET /cdn", "hang", "no answer within 1 s, each time"),
        ("GET /cdn", "truncate", rf"connection broke each time \(.*\). {AGAIN}"),
        ("GET /cdn", "wrong", r"sha256 begins \w{{8}}, not \w{{8}}. Nothing of it was kept"),
        (
            "GET /api",
            "page",
            r"does not answer as a hub does \(JSONDecodeError\). Check that HF_EN",
        ),
        ("HEAD .*config.json", "no-etag", "config.json has no ETag, .* Check that HF_ENDPOINT is"),
        ("GET /api", 418, "it answered 418. Check the name and the address"),
        ("GET .*/config.json", "wrong", r"git's digest begins \w{{8}}, not \w{{8}}. Nothing of it"),
    ],
)
def test_every_fault_is_one_clear_error_and_leaves_no_broken_cache(
    hub: StandInHub, commit: str, pattern: str, fault: Kind, message: str
) -> None:
    hub.fail(pattern, fault)
    with pytest.raises(TransferError, match=message.format(url=hub.url)) as caught:
        fetch()
    text = str(caught.value)
    assert text.startswith("weights of me/tiny ")
    assert f"from me/tiny@main on {hub.url}" in text
    assert "\n" not in text
    assert SOURCE.locate(SPEC).missing, "an incomplete snapshot must not look whole"
    assert find_snapshot("me/tiny") is None
    hub.heal()
    fetch()
    assert SOURCE.load(SPEC, image_size=None, seed=0).info.weights_source.endswith(commit)


def test_a_download_that_was_cut_off_goes_on_where_it_stopped_in_a_later_run(
    hub: StandInHub, commit: str, model_files: dict[str, bytes]
) -> None:
    hub.fail("GET /cdn", "truncate")
    with pytest.raises(TransferError):
        fetch()
    hub.heal()
    fetch()
    half = len(model_files["model.safetensors"]) // 2
    assert hub.ranges() == [f"bytes={half}-"]
    snapshot = find_snapshot("me/tiny")
    assert snapshot is not None
    assert (snapshot / "model.safetensors").read_bytes() == model_files["model.safetensors"]
    assert not list(hub_cache_dir().rglob("*.part"))


@pytest.mark.parametrize("fault", ["hang", "truncate", 503])
def test_a_passing_fault_is_ridden_out(hub: StandInHub, commit: str, fault: Kind) -> None:
    for pattern in ("GET /api", "HEAD .*safetensors", "GET /cdn"):
        hub.fail(pattern, fault, times=1)
    fetch()
    assert not SOURCE.locate(SPEC).missing


def test_an_address_that_expires_midway_is_asked_for_again(
    hub: StandInHub, commit: str, model_files: dict[str, bytes]
) -> None:
    hub.uses_per_address = 1
    hub.fail("GET /cdn", "truncate", times=1)
    fetch()
    whole = len(model_files["model.safetensors"])
    assert hub.ranges() == [f"bytes={whole // 2}-"] * 2
    assert hub.uses == [2, 1]
    snapshot = find_snapshot("me/tiny")
    assert snapshot is not None
    assert (snapshot / "model.safetensors").read_bytes() == model_files["model.safetensors"]


def test_a_store_that_refuses_every_address_is_asked_three_times(
    hub: StandInHub, commit: str
) -> None:
    hub.uses_per_address = 0
    with pytest.raises(TransferError, match="refuses access") as caught:
        fetch()
    assert "gated" not in str(caught.value)
    assert hub.uses == [1, 1, 1]


def test_access_that_the_hub_withdraws_midway_is_gated(hub: StandInHub, commit: str) -> None:
    hub.uses_per_address = 1
    hub.fail("GET /cdn", "truncate", times=1)
    hub.fail("HEAD .*safetensors", 403, after=1)
    with pytest.raises(TransferError, match=r"gated \(403\). Ask for access at .*/me/tiny"):
        fetch()
    assert hub.uses == [2]


def test_a_hub_that_stores_its_files_itself_may_have_addresses_that_expire_too(
    hub: StandInHub, commit: str, model_files: dict[str, bytes]
) -> None:
    hub.large_bytes = 10**9
    hub.fail("GET .*safetensors", "truncate", times=1)
    hub.fail("GET .*safetensors", 403, times=1)
    fetch()
    assert not SOURCE.locate(SPEC).missing


def test_an_unknown_revision_is_named_with_those_there_are(hub: StandInHub, commit: str) -> None:
    with pytest.raises(TransferError, match=r"me/tiny@v9 on .* no such revision .* Known: main\."):
        fetch(BackboneSpec(name="hf/me/tiny", revision="v9"))
    hub.fail("/refs", 503)
    with pytest.raises(TransferError, match=rf"no such revision \(404\). See {hub.url}/me/tiny/tr"):
        fetch(BackboneSpec(name="hf/me/tiny", revision="v9"))


def test_a_repository_without_weights_says_what_it_has(hub: StandInHub) -> None:
    hub.add("me/tiny", {"config.json": b"{}", "tf_model.h5": b"x"})
    with pytest.raises(
        TransferError,
        match=r"holds none of model\*\.safetensors, pytorch_model\*\.bin\. It has: config\.json, ",
    ):
        fetch()


def test_a_repository_that_transformers_cannot_read_is_told(
    hub: StandInHub, model_files: dict[str, bytes]
) -> None:
    hub.add("me/tiny", {"model.safetensors": model_files["model.safetensors"]})
    with pytest.raises(
        BackboneError, match=r"hf/me/tiny: .* holds no model that transformers reads: config\.json"
    ):
        SOURCE.load(SPEC, image_size=None, seed=0)


def test_a_hub_out_of_reach_says_which_and_what_to_check(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        TransferError,
        match=r"me/tiny@main on http://127.0.0.1:9: it cannot be reached \(ConnectError: .*\)\. "
        r"Check the network, HF_ENDPOINT and HTTPS_PROXY, or bring the files and set HF_HUB_OFFL",
    ):
        fetch()


def test_offline_nothing_is_asked(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsMissingError, match="HF_HUB_OFFLINE is set"):
        fetch()
    assert hub.seen == []


def test_the_token_goes_to_the_hub_and_not_to_where_it_stores_files(
    hub: StandInHub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch()
    given = {seen.path.partition("/")[2][:3]: seen.authorization for seen in hub.seen}
    assert given["cdn"] is None
    assert given["api"] == "Bearer hf_secret"


def test_names_that_lead_out_of_the_cache_are_refused(
    hub: StandInHub, model_files: dict[str, bytes]
) -> None:
    hub.add("me/tiny", {**model_files, "../../evil.json": b"{}"})
    with pytest.raises(TransferError, match=r"names a file '\.\./\.\./evil\.json', which would"):
        fetch()


def test_a_cache_that_cannot_be_written_is_told(
    hub: StandInHub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/dev/null/hf")
    with pytest.raises(TransferError, match=r"NotADirectoryError: .*\. Check the name, the disk"):
        fetch()


def test_a_blob_that_another_program_left_damaged_is_fetched_anew(
    hub: StandInHub, commit: str, model_files: dict[str, bytes]
) -> None:
    blobs = hub_cache_dir() / "models--me--tiny" / "blobs"
    blobs.mkdir(parents=True)
    digest = hashlib.sha256(model_files["model.safetensors"]).hexdigest()
    (blobs / digest).write_bytes(b"damaged")
    fetch()
    assert (blobs / digest).read_bytes() == model_files["model.safetensors"]


def test_two_that_want_the_same_files_at_once_fetch_each_once(hub: StandInHub, commit: str) -> None:
    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not SOURCE.locate(SPEC).missing
    assert hub.num_gets("/cdn/") == 1


MOODS = DatasetSpec(name="hf/someone/moods", text="text", label="label")
TRAIN = b"text,label\n" + b"so glad,good\nso sad,bad\n" * 40
TEST = b"text,label\nvery glad,good\nvery sad,bad\n"


def test_a_dataset_of_the_hub_comes_the_same_way_with_the_same_checks(
    hub: StandInHub, tmp_path: Path
) -> None:
    source, cache = HubDataSource(), ArtifactCache(tmp_path / "cache")
    content = {"train.csv": TRAIN, "test.csv": TEST, "moods.py": b"raise SystemExit"}
    commit = hub.add("someone/moods", content, kind="dataset")
    (lack,) = source.locate(MOODS).missing
    assert lack.origin is not None
    total = len(TRAIN) + len(TEST)
    assert measure_sizes([lack.origin]) == {lack.origin: total}
    hub.large_bytes = 500
    hub.fail("GET /cdn", "truncate")
    with pytest.raises(TransferError, match=r"^data of hf/someone/moods .* someone/moods@main on"):
        source.fetch(MOODS, silent)
    assert source.locate(MOODS).missing
    hub.heal()
    told: list[Progress] = []
    source.fetch(MOODS, told.append)
    assert hub.ranges() == [f"bytes={len(TRAIN) // 2}-"]
    assert told[-1].num_bytes == told[-1].total_bytes == total
    snapshot = find_snapshot("someone/moods", kind="datasets")
    assert snapshot is not None and snapshot.name == commit
    assert not (snapshot / "moods.py").exists(), "code is not fetched"
    hub.seen.clear()
    assert len(source.load(MOODS, cache).parts["train"].ids) == 80
    source.fetch(MOODS, silent)
    assert hub.seen == []


TIMM = BackboneSpec(name="timm/test_vit.r160_in1k")


def test_timm_weights_come_the_same_way_with_the_same_checks(hub: StandInHub) -> None:
    source = TimmSource()
    good = weights_of_test_vit()
    commit = hub.add("timm/test_vit.r160_in1k", {"model.safetensors": good, "config.json": b"{}"})
    hub.fail("GET /cdn", "wrong")
    with pytest.raises(TransferError, match=r"weights of timm/test_vit.r160_in1k arrived .* sha"):
        source.fetch(TIMM, silent)
    assert source.locate(TIMM).missing
    hub.heal()
    told: list[Progress] = []
    source.fetch(TIMM, told.append)
    assert told[-1].num_bytes == told[-1].total_bytes == len(good)
    backbone = source.load(TIMM, image_size=None, seed=0)
    assert backbone.info.weights_source == f"hub timm/test_vit.r160_in1k@{commit}"


def weights_of_test_vit() -> bytes:
    import timm
    from safetensors.torch import save

    return save(timm.create_model("test_vit").state_dict())


def test_torchvision_weights_go_on_where_they_stopped_are_checked_and_load(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), buffer)
    data = buffer.getvalue()
    name = f"shufflenetv2-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    hub.files[f"/{name}"] = data
    listed = torchvision_catalogue().resolve("shufflenet_v2_x0_5@IMAGENET1K_V1")
    assert listed is not None
    entry = replace(listed, url=f"{hub.url}/{name}")
    monkeypatch.setattr(torchvision_backbones, "_entry", lambda spec: entry)
    source, spec = TorchvisionSource(), BackboneSpec(name="torchvision/shufflenet_v2_x0_5")
    hub.fail("GET", "truncate")
    with pytest.raises(TransferError, match=r"^weights of torchvision/shufflenet_v2_x0_5@IMAGENET"):
        source.fetch(spec, silent)
    hub.heal()
    told: list[Progress] = []
    source.fetch(spec, told.append)
    assert hub.ranges() == [f"bytes={len(data) // 2}-"]
    assert (told[-1].num_bytes, told[-1].total_bytes) == (len(data), listed.num_bytes)
    backbone = source.load(spec, image_size=64, seed=0)
    assert backbone.info.weights_source.endswith(f"{name}, digest verified")


NET = b"weights" * 1000
NAME = f"net-{hashlib.sha256(NET).hexdigest()[:8]}.pth"


def fetch_net(hub: StandInHub, name: str = NAME) -> Path:
    return weights_hub.fetch_url("weights of x", f"{hub.url}/{name}")


def test_a_plain_download_goes_on_where_it_stopped_and_is_verified(hub: StandInHub) -> None:
    hub.files[f"/{NAME}"] = NET
    hub.fail("GET", "truncate")
    with pytest.raises(TransferError, match=rf"weights of x could not be .* {hub.url}/{NAME}: "):
        fetch_net(hub)
    assert [path.name for path in torch_checkpoint_dir().iterdir()] == [f"{NAME}.part"]
    hub.heal()
    assert fetch_net(hub).read_bytes() == NET
    assert hub.ranges() == [f"bytes={len(NET) // 2}-"]
    assert [path.name for path in torch_checkpoint_dir().iterdir()] == [NAME]
    assert weights_hub.describe_file(fetch_net(hub)) == f"{NAME}, digest verified"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (404, r"no such thing \(404\)"),
        (401, r": it refuses access \(401\)\. Run it again"),
        (403, r": it refuses access \(403\)\. Run it again"),
        (503, "answered 503 each time"),
        ("hang", "no answer within 1 s"),
        ("wrong", r"sha256 begins \w{8}, not \w{8}. Nothing of it was kept"),
    ],
)
def test_every_fault_of_a_plain_download_is_one_error_and_leaves_no_file(
    hub: StandInHub, fault: Kind, message: str
) -> None:
    hub.files[f"/{NAME}"] = NET
    hub.fail("GET", fault)
    with pytest.raises(TransferError, match=message):
        fetch_net(hub)
    assert not (torch_checkpoint_dir() / NAME).exists()
    hub.heal()
    assert fetch_net(hub).read_bytes() == NET


def test_a_plain_download_without_a_digest_starts_anew_since_nothing_could_check_a_mixture(
    hub: StandInHub,
) -> None:
    hub.files["/net.pth"] = NET
    hub.fail("GET", "truncate")
    with pytest.raises(TransferError):
        fetch_net(hub, "net.pth")
    hub.heal()
    assert fetch_net(hub, "net.pth").read_bytes() == NET
    assert hub.ranges() == []


def test_a_part_that_was_whole_but_not_moved_is_not_downloaded_again(hub: StandInHub) -> None:
    hub.files[f"/{NAME}"] = NET
    torch_checkpoint_dir().mkdir(parents=True)
    (torch_checkpoint_dir() / f"{NAME}.part").write_bytes(NET)
    assert fetch_net(hub).read_bytes() == NET
    assert [seen.range for seen in hub.seen] == [f"bytes={len(NET)}-"]


def test_a_part_that_is_as_long_as_the_file_is_checked_as_any(hub: StandInHub) -> None:
    hub.files[f"/{NAME}"] = NET
    torch_checkpoint_dir().mkdir(parents=True)
    part = torch_checkpoint_dir() / f"{NAME}.part"
    part.write_bytes(bytes(len(NET)))
    with pytest.raises(TransferError, match=r"sha256 begins \w{8}, not \w{8}. Nothing of it was k"):
        fetch_net(hub)
    assert not part.exists()


def test_a_server_that_has_nothing_beyond_a_part_is_asked_for_the_whole(hub: StandInHub) -> None:
    hub.tells_size = False
    hub.files[f"/{NAME}"] = NET
    torch_checkpoint_dir().mkdir(parents=True)
    (torch_checkpoint_dir() / f"{NAME}.part").write_bytes(NET)
    assert fetch_net(hub).read_bytes() == NET
    assert [seen.range for seen in hub.seen] == [f"bytes={len(NET)}-", None]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(hub: StandInHub) -> None:
    hub.files[f"/{NAME}"] = NET
    torch_checkpoint_dir().mkdir(parents=True)
    (torch_checkpoint_dir() / f"{NAME}.part").write_bytes(NET + NET)
    assert fetch_net(hub).read_bytes() == NET


def test_every_error_of_a_download_is_one_of_ours(hub: StandInHub) -> None:
    with pytest.raises(BenchError, match=r"weights of x could not be downloaded from no-address"):
        weights_hub.fetch_url("weights of x", "no-address/net.pth")
