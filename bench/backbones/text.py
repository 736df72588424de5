"""A folder with a transformers text model -> a checked backbone; knows not where it came from.

The feature is pooled from the model's last hidden states, see `text_features`; a dense pooler,
which most checkpoints never trained for it, is not used, and features are not normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.backbones.assemble import TRIAL_FAILURES, TRIAL_TEXTS, Parts, assemble
from bench.backbones.hub_features import load_hub_model
from bench.backbones.hub_kind import POOLING, SENTENCES, read_json
from bench.backbones.lengths import padding_leaks
from bench.backbones.stages import hub_stages
from bench.backbones.text_features import Pooling, TextFeatures, default_pooling
from bench.backbones.tokens import digest_tokenizer, load_tokenizer, make_encoder
from bench.errors import BackboneError
from bench.interfaces import TOKEN_PADDING, Backbone, RowEncoder
from bench.record import TextPreprocessing
from bench.spec import BackboneSpec

DEFAULT_MAX_TOKENS = 256
_UNLIMITED = 1_000_000
# Their positions begin behind the padding token's own.
_OFFSET_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta"}
    | {"roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
_POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_OLD_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""What older versions of sentence-transformers wrote, and what newer ones call each of them."""


def load_text_backbone(
    spec: BackboneSpec, folder: Path, *, seed: int | None, source: str, licence: str | None
) -> Backbone:
    """Return the text backbone of a folder.

    Args:
        spec: Its pooling and max_tokens win over the model's own.
        folder: Configuration, tokenizer and, unless a seed is given, weights.
        seed: Draws random weights; None loads the folder's.
        source: Where the weights came from, for people.
        licence: Of the weights.

    Raises:
        WeightsMismatchError: Tensors that did not load, by name.
        BackboneError: No text encoder or decoder, no tokenizer, a pooling of its own that is not
            known here, or more tokens than it takes.
    """
    tokenizer = load_tokenizer(folder, name=spec.name, trust_remote_code=spec.trust_remote_code)
    model, unloaded = load_hub_model(spec, folder, seed=seed)
    config: Any = model.config
    _check_kind(spec, model)
    pooling = spec.pooling or _own_pooling(spec, folder) or default_pooling(config.model_type)
    drop_pooler(model, unloaded, name=spec.name)
    config.use_cache = False
    _stand_in_for_pooler(model.eval())
    module = TextFeatures(model, pooling=pooling, pad_token=_pad_token(config, tokenizer))
    digest = digest_tokenizer(tokenizer, folder)
    max_tokens = _max_tokens(spec, _model_limit(folder, config, tokenizer))
    encoder = make_encoder(tokenizer, max_tokens, digest)
    module.pads = _pads(module, encoder)
    parts = Parts(
        module=module,
        own=TextPreprocessing(max_tokens=max_tokens, pooling=pooling, tokenizer=digest),
        stages=hub_stages(module),
        source=source,
        licence=licence,
        modality="text",
        encoder=encoder,
    )
    return assemble(spec, parts, image_size=None)


def drop_pooler(model: nn.Module, unloaded: Sequence[str], *, name: str) -> None:
    """Take away a dense pooler, which features do not pass through and which may hold no weights.

    Args:
        model: As AutoModel gives it; changed in place.
        unloaded: Tensors of poolers that the weights lack.
        name: Of the backbone, for messages.

    Raises:
        BackboneError: A pooler that was not loaded lies elsewhere in the model.
    """
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    own = dict(model.named_parameters())
    left = [tensor for tensor in unloaded if tensor in own]
    if left:
        raise BackboneError(
            f"{name}: some of its weights were never loaded: {', '.join(left)}. Use a checkpoint "
            "that holds them."
        )


@torch.inference_mode()
def _stand_in_for_pooler(model: Any) -> None:
    """Put a pooler without parameters where the forward pass does not ask whether there is one.

    Models that do ask (BERT) keep none: the modules of a model are part of what it is known by.
    """
    if not hasattr(model, "pooler") or model.pooler is not None:
        return
    try:
        one = torch.ones(1, 1, dtype=torch.int64)
        model(input_ids=one - 1, attention_mask=one)
    except TypeError:
        model.register_module("pooler", nn.Identity())
    except TRIAL_FAILURES:
        # Of something else: the trial of the whole backbone tells it.
        return


def _pads(module: TextFeatures, encoder: RowEncoder) -> bool:
    """Return whether texts of several lengths may go through a model at once."""
    rows = [torch.from_numpy(row.values).long() for row in encoder.encode(TRIAL_TEXTS)]
    try:
        return not padding_leaks(module, rows, TOKEN_PADDING)
    except TRIAL_FAILURES:
        # It does not run: the trial of the whole backbone tells it.
        return True


def _check_kind(spec: BackboneSpec, model: Any) -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        raise BackboneError(
            f"{spec.name}: {model.config.model_type} is an encoder with a decoder; only one of "
            "the two alone gives features. Use an encoder (BERT) or a decoder (GPT-2)."
        )
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        raise BackboneError(f"{spec.name}: takes {model.main_input_name}, not texts.")


def _own_pooling(spec: BackboneSpec, folder: Path) -> Pooling | None:
    """Return the pooling that the model was trained with, where the folder says so.

    Raises:
        BackboneError: It is one that is not known here, or several at once.
    """
    config = read_json(folder / POOLING)
    flagged = [name for key, name in _OLD_FLAGS.items() if config.get(key)]
    told = config.get("pooling_mode") or flagged
    modes = [told] if isinstance(told, str) else list(told)
    if not modes:
        return None
    if len(modes) > 1 or modes[0] not in _POOLINGS:
        raise BackboneError(
            f"{spec.name}: {POOLING} asks for pooling {' + '.join(map(str, modes))}, which is not "
            "known here. Give one of pooling: cls, mean, last; features are then not those that "
            "the model was trained for."
        )
    return _POOLINGS[modes[0]]


def _pad_token(config: Any, tokenizer: Any) -> int:
    tokens = (getattr(config, "pad_token_id", None), tokenizer.pad_token_id)
    vocabulary = getattr(config, "vocab_size", _UNLIMITED)
    return next((t for t in tokens if t is not None and 0 <= t < vocabulary), 0)


def _model_limit(folder: Path, config: Any, tokenizer: Any) -> int | None:
    """Return the most tokens a model takes, special ones included; None where nothing says."""
    positions = getattr(config, "max_position_embeddings", None) or None
    if positions and config.model_type in _OFFSET_POSITIONS:
        positions -= (getattr(config, "pad_token_id", None) or 0) + 1
    sentences = read_json(folder / SENTENCES).get("max_seq_length")
    limits = (positions, tokenizer.model_max_length, sentences)
    known = [limit for limit in limits if limit and 0 < limit < _UNLIMITED]
    return min(known, default=None)


def _max_tokens(spec: BackboneSpec, limit: int | None) -> int:
    if spec.max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, limit or DEFAULT_MAX_TOKENS)
    if limit is not None and spec.max_tokens > limit:
        raise BackboneError(
            f"{spec.name}: max_tokens {spec.max_tokens} is more than the {limit} that the model "
            "takes. Lower it, or leave it out."
        )
    return spec.max_tokens
