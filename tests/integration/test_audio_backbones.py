"""Audio models of the hub: features against the plain models, padding, limits and stages."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from bench.backbones.audio_features import LengthAwareNorm
from bench.backbones.clip_rows import load_extractor
from bench.backbones.hf import HubSource
from bench.backbones.hub_kind import folder_modality
from bench.errors import BackboneError, WeightsMismatchError
from bench.interfaces import Backbone, Clip, EncodedRow
from bench.record import AudioPreprocessing
from bench.registry import backbone_modality
from bench.spec import BackboneSpec
from tests.audio import (
    AST_FRAMES,
    KINDS,
    RATE,
    WAVES,
    WHISPER_SECONDS,
    drop_weight,
    save_model,
    tone,
)

pytest.importorskip("soxr", reason="the audio extra is not installed")
SOURCE = HubSource()
SECONDS = (0.3, 0.8, 0.05, 0.8, 0.55)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("audio")
    return {kind: save_model(root / kind, kind) for kind in KINDS}


def load(folder: Path, **fields: object) -> Backbone:
    return SOURCE.load(BackboneSpec(name=f"hf/{folder}", **fields), image_size=None, seed=3)


def make_clips(rate: int = RATE) -> list[Clip]:
    draw = np.random.default_rng(1)
    clips = []
    for number, seconds in enumerate(SECONDS):
        samples = tone(300 + 200 * number, seconds, rate)
        noise = 0.05 * draw.standard_normal(len(samples))
        clips.append(Clip((samples + noise).astype(np.float32), rate))
    return clips


def encode(backbone: Backbone, clips: list[Clip]) -> list[EncodedRow]:
    assert backbone.encoder is not None
    return list(backbone.encoder.encode(clips))


def pad(rows: list[EncodedRow]) -> Tensor:
    values = [torch.from_numpy(row.values) for row in rows]
    return nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=float("nan"))


@torch.inference_mode()
def features_together(backbone: Backbone, clips: list[Clip]) -> Tensor:
    return backbone.module(pad(encode(backbone, clips)))


@torch.inference_mode()
def features_alone(backbone: Backbone, clips: list[Clip]) -> Tensor:
    rows = encode(backbone, clips)
    return torch.cat([backbone.module(torch.from_numpy(row.values)[None]) for row in rows])


@torch.inference_mode()
def plain_features(folder: Path, clip: Clip) -> Tensor:
    """What transformers alone gives for one clip."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = extractor(clip.samples, sampling_rate=RATE, return_tensors="pt")
    if isinstance(model, transformers.ASTModel):
        return model(**inputs).pooler_output[0]
    if isinstance(model, transformers.WhisperModel):
        return model.get_encoder()(inputs.input_features).last_hidden_state[0]
    return model(inputs.input_values).last_hidden_state[0].mean(0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_has_the_features_of_each_clip_alone(
    folders: dict[str, Path], kind: str
) -> None:
    backbone, clips = load(folders[kind]), make_clips()
    alone = features_alone(backbone, clips)
    torch.testing.assert_close(features_together(backbone, clips), alone, rtol=1e-4, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [*WAVES, "ast"])
def test_features_are_those_of_the_plain_model(folders: dict[str, Path], kind: str) -> None:
    clip = make_clips()[1]
    features = features_together(load(folders[kind]), [clip])[0]
    torch.testing.assert_close(features, plain_features(folders[kind], clip), rtol=1e-4, atol=1e-5)


def test_whisper_s_feature_is_the_mean_of_the_states_of_the_clip(folders: dict[str, Path]) -> None:
    backbone = load(folders["whisper"])
    clip = Clip(tone(440, 0.8), RATE)
    states = plain_features(folders["whisper"], clip)
    # 0.8 s are 80 frames of 10 ms and two more whose windows reach into them; two a state.
    features = features_together(backbone, [clip])[0]
    torch.testing.assert_close(features, states[:41].mean(0), rtol=1e-4, atol=1e-5)
    longest = Clip(tone(440, WHISPER_SECONDS), RATE)
    torch.testing.assert_close(
        features_together(backbone, [longest])[0],
        plain_features(folders["whisper"], longest).mean(0),
        rtol=1e-4,
        atol=1e-5,
    )


def test_with_the_norm_as_it_was_padding_would_change_features(folders: dict[str, Path]) -> None:
    backbone, clips = load(folders["wav2vec2"]), make_clips()
    alone = features_alone(backbone, clips)
    first = backbone.module.model.feature_extractor.conv_layers[0]
    norm = first.layer_norm
    assert isinstance(norm, LengthAwareNorm)
    first.layer_norm = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps)
    assert (features_together(backbone, clips) - alone).abs().max() > 1e-2


def test_a_model_through_which_padding_leaks_sees_each_length_alone(
    folders: dict[str, Path],
) -> None:
    leaky, tight = load(folders["data2vec"]), load(folders["wavlm"])
    assert not leaky.module.pads
    assert tight.module.pads
    clips = make_clips()
    leaky.module.pads = True
    difference = features_together(leaky, clips) - features_alone(leaky, clips)
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_padded_batch_are_finite_and_reach_every_stage(
    folders: dict[str, Path], kind: str
) -> None:
    backbone = load(folders[kind])
    backbone.module.train()
    backbone.module(pad(encode(backbone, make_clips()))).square().sum().backward()
    for stage in backbone.stages:
        owned = [backbone.module.get_parameter(name) for name in stage.parameters]
        for path in stage.modules:
            owned += backbone.module.get_submodule(path).parameters()
        grads = [value.grad for value in owned if value.grad is not None]
        assert grads
        assert all(bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.parametrize("kind", KINDS)
def test_stages_are_the_convolutions_and_each_layer(folders: dict[str, Path], kind: str) -> None:
    names = [stage.name for stage in load(folders[kind]).stages]
    assert names[0] == "stem"
    assert [name.rpartition(".")[2] for name in names[1:]] == ["0", "1"]


def test_the_norm_behind_the_last_layer_is_of_its_stage(folders: dict[str, Path]) -> None:
    behind, before = (load(folders[kind]).stages for kind in ("wav2vec2-layer", "wav2vec2"))
    assert "model.encoder.layer_norm" in behind[-1].modules
    assert "model.encoder.layer_norm" not in behind[0].modules
    assert "model.encoder.layer_norm" in before[0].modules


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_training_hides_no_stretches_and_skips_no_layers(tmp_path: Path, kind: str) -> None:
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    folder = save_model(
        tmp_path / kind,
        kind,
        layerdrop=0.9,
        mask_time_prob=0.5,
        mask_time_length=2,
        feat_proj_dropout=0.0,
        **still,
    )
    backbone = load(folder)
    assert not any("masked" in name for name, _ in backbone.module.named_parameters())
    rows = pad(encode(backbone, make_clips()))
    with torch.no_grad():
        expected = backbone.module(rows)
        backbone.module.train()
        for _ in range(3):
            torch.testing.assert_close(backbone.module(rows), expected, rtol=1e-4, atol=1e-5)


def test_the_embedding_of_hidden_stretches_may_be_missing_and_nothing_else(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "wav2vec2", "wav2vec2")
    expected = features_together(load(folder), make_clips())
    drop_weight(folder, "masked_spec_embed")
    torch.testing.assert_close(features_together(load(folder), make_clips()), expected)
    drop_weight(folder, "feature_projection.projection.weight")
    with pytest.raises(WeightsMismatchError, match=r"feature_projection\.projection\.weight"):
        load(folder)


def test_whisper_s_sinusoids_are_no_parameters(folders: dict[str, Path]) -> None:
    backbone = load(folders["whisper"])
    names = {name for name, _ in backbone.module.named_parameters()}
    assert "model.embed_positions.weight" not in names
    assert "model.embed_positions.weight" in dict(backbone.module.named_buffers())
    assert not any("decoder" in name for name in names)


def test_clips_are_resampled_to_the_model_s_rate_and_normed_as_it_wants(
    folders: dict[str, Path],
) -> None:
    backbone = load(folders["wav2vec2"])
    (row,) = encode(backbone, [Clip(tone(440, 0.5, 44_100), 44_100)])
    assert len(row.values) == 8_000
    assert float(row.values.mean()) == pytest.approx(0, abs=1e-3)
    assert float(row.values.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_long_clips_are_cut_and_very_short_ones_end_in_silence(
    folders: dict[str, Path], kind: str
) -> None:
    backbone = load(folders[kind], max_seconds=0.5)
    whole, long, tiny = encode(
        backbone, [Clip(tone(440, seconds), RATE) for seconds in (0.5, 0.7, 0.001)]
    )
    assert [row.is_truncated for row in (whole, long, tiny)] == [False, True, False]
    np.testing.assert_allclose(whole.values, long.values, atol=1e-6)
    with torch.inference_mode():
        assert backbone.module(pad([tiny])).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("wav2vec2", 10.0),
        ("whisper", float(WHISPER_SECONDS)),
        ("ast", 0.025 + (AST_FRAMES - 1) * 0.01),
    ],
)
def test_the_longest_clip_is_what_the_model_takes_or_ten_seconds(
    folders: dict[str, Path], kind: str, seconds: float
) -> None:
    how = load(folders[kind]).preprocessing
    assert isinstance(how, AudioPreprocessing)
    assert (how.sample_rate, how.max_seconds) == (RATE, pytest.approx(seconds))


def test_more_seconds_than_the_model_takes_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(BackboneError, match=r"max_seconds 2\.5 is more than the 2 that the model"):
        load(folders["whisper"], max_seconds=2.5)


def test_rows_have_another_digest_where_rate_length_or_extractor_differ(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["wav2vec2"]
    changed = save_model(tmp_path / "changed", "wav2vec2")
    processor = changed / "preprocessor_config.json"
    settings = json.loads(processor.read_text())
    processor.write_text(json.dumps(settings | {"do_normalize": False}))
    backbones = [load(folder), load(folder, max_seconds=5), load(changed), load(folder)]
    digests = [backbone.encoder.digest for backbone in backbones if backbone.encoder]
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]


def test_the_modality_is_known_from_files_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    for folder in folders.values():
        assert backbone_modality(BackboneSpec(name=f"hf/{folder}")) == "audio"
    assert "soxr" in SOURCE.locate(BackboneSpec(name=f"hf/{folders['ast']}")).packages


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_tokens", 64, "takes clips, not texts: drop max_tokens."),
        ("pooling", "mean", "takes clips, not texts: drop pooling."),
        ("mean", 0.5, "takes clips, not images: drop mean."),
    ],
)
def test_fields_of_other_modalities_are_refused(
    folders: dict[str, Path], field: str, value: object, message: str
) -> None:
    problem = SOURCE.check(BackboneSpec(name=f"hf/{folders['hubert']}", **{field: value}))
    assert problem is not None
    assert problem.endswith(message)


def test_an_audio_model_that_is_not_known_is_named_with_those_that_are(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    transformers.utils.logging.disable_progress_bar()
    config = transformers.Wav2Vec2BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.Wav2Vec2BertModel(config).save_pretrained(folder)
    transformers.SeamlessM4TFeatureExtractor().save_pretrained(folder)
    with pytest.raises(BackboneError, match=r"type 'wav2vec2-bert'\. Known: audio-spectrogram"):
        load(folder)


def test_a_model_of_sound_without_the_resampler_is_refused_before_any_work(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BackboneSpec(name=f"hf/{folders['hubert']}")
    assert SOURCE.check(spec) is None
    monkeypatch.setitem(sys.modules, "soxr", None)
    problem = SOURCE.check(spec)
    assert problem is not None
    assert problem.endswith("Install it with: pip install 'transfer-bench[audio]'.")


def test_the_feature_extractor_of_the_published_ast_loads_without_a_warning(tmp_path: Path) -> None:
    settings = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": RATE}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    extractor = load_extractor(tmp_path, name="hf/ast", trust_remote_code=False)
    assert (extractor.num_mel_bins, extractor.max_length) == (128, 1024)


def test_without_a_feature_extractor_there_is_nothing_to_load(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "wavlm", "wavlm")
    (folder / "preprocessor_config.json").unlink()
    located = SOURCE.locate(BackboneSpec(name=f"hf/{folder}"))
    assert located.missing
    assert not located.files


def test_a_feature_extractor_saved_beside_a_tokenizer_in_one_file_is_found(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(folders["wav2vec2"], folder)
    own = folder / "preprocessor_config.json"
    nested = {"feature_extractor": json.loads(own.read_text())}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    own.unlink()
    spec = BackboneSpec(name=f"hf/{folder}")
    assert SOURCE.modality(spec) == "audio"
    assert folder / "processor_config.json" in SOURCE.locate(spec).files
    backbone = SOURCE.load(spec, image_size=None, seed=0)
    plain = SOURCE.load(BackboneSpec(name=f"hf/{folders['wav2vec2']}"), image_size=None, seed=0)
    assert backbone.preprocessing == plain.preprocessing


def test_what_else_a_processor_file_holds_makes_no_model_of_images(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 9}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    assert folder_modality(tmp_path) == "text"


def test_random_weights_are_drawn_from_the_seed(folders: dict[str, Path]) -> None:
    spec = BackboneSpec(name=f"hf/{folders['wavlm']}", weights="random")
    clips = make_clips()
    one, same, other = (
        features_together(SOURCE.load(spec, image_size=None, seed=seed), clips)
        for seed in (1, 1, 2)
    )
    torch.testing.assert_close(one, same)
    assert (one - other).abs().max() > 1e-3


def test_a_checkpoint_of_pretraining_with_its_old_names_loads(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = save_model(tmp_path / "plain", "wav2vec2")
    config = transformers.Wav2Vec2Config.from_pretrained(plain)
    config.codevector_dim = config.proj_codevector_dim = 16
    whole = transformers.Wav2Vec2ForPreTraining(config)
    whole.wav2vec2.load_state_dict(load_file(plain / "model.safetensors"))
    old = tmp_path / "old"
    whole.save_pretrained(old)
    (old / "preprocessor_config.json").write_text((plain / "preprocessor_config.json").read_text())
    tensors = load_file(old / "model.safetensors")
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in tensors.items()
    }
    assert any(name.endswith("conv.weight_g") for name in renamed)
    save_file(renamed, old / "model.safetensors", metadata={"format": "pt"})
    clips = make_clips()
    torch.testing.assert_close(
        features_together(load(old), clips), features_together(load(plain), clips)
    )
