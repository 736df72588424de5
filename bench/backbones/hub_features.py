"""A transformers vision model as images -> features; imports torch, knows no cache and no spec."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.backbones.weights import mismatch_error, seeded
from bench.errors import BackboneError
from bench.spec import BackboneSpec

_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_DENSE_POOLER = "pooler.dense."


class HubFeatures(nn.Module):
    """A vision model and the rule by which its output becomes features."""

    def __init__(
        self, model: nn.Module, *, pooled: bool, class_token: bool, reverses_channels: bool = False
    ) -> None:
        """Wrap a model.

        Args:
            model: Takes ``pixel_values``.
            pooled: Use its pooled output where it gives one.
            class_token: Else its first token is a class token; if not, tokens are averaged.
            reverses_channels: It was trained on blue, green, red.
        """
        super().__init__()
        self.model = model
        self._pooled = pooled
        self._class_token = class_token
        self._reverses_channels = reverses_channels
        accepted = inspect.signature(model.forward).parameters
        # Accepted models resample their position embeddings, so that other sizes work.
        self._options = {name: True for name in ("interpolate_pos_encoding",) if name in accepted}

    def extra_repr(self) -> str:
        """Name what no parameter shows, since it is part of the digest of the weights."""
        return "reverses_channels=True" if self._reverses_channels else ""

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) of normalised images (B, 3, H, W), red first."""
        images = images.flip(1) if self._reverses_channels else images
        output = self.model(pixel_values=images, **self._options)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if self._pooled and pooled is not None:
            return pooled.flatten(1)
        hidden: Tensor = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        return hidden[:, 0] if self._class_token else hidden.mean(1)


def load_hub_model(
    spec: BackboneSpec, folder: Path, *, seed: int | None, dispensable: Sequence[str] = ()
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model of a folder and the names of its poolers' tensors that did not load.

    Weights are float32, loaded or drawn, whatever the configuration says.

    Args:
        spec: Names the backbone and allows remote code.
        folder: Configuration and weights.
        seed: Draws random weights; None loads the folder's.
        dispensable: Names of tensors that the caller drops, so that they may be missing.

    Raises:
        WeightsMismatchError: Tensors are missing, of another shape, or left over and no head's.
        BackboneError: transformers cannot read the folder.
    """
    from transformers import AutoConfig, AutoModel

    remote = {"trust_remote_code": spec.trust_remote_code}
    common = {"local_files_only": True, **remote}
    try:
        if seed is not None:
            config = AutoConfig.from_pretrained(folder, **common)
            with seeded(seed):
                return AutoModel.from_config(config, dtype="float32", **remote), ()
        with _quiet():
            model, loading = AutoModel.from_pretrained(
                folder, output_loading_info=True, dtype="float32", **common
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise BackboneError(
            f"{spec.name}: transformers cannot load {folder}: {type(error).__name__}: {error}"
        ) from error
    missing = [key for key in loading["missing_keys"] if key not in dispensable]
    return model, _check_loading(spec.name, model, {**loading, "missing_keys": missing})


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' own report of what did not load: `_check_loading` judges it."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _check_loading(name: str, model: Any, loading: dict[str, Any]) -> tuple[str, ...]:
    """Return the tensors of dense poolers that were missing, after nothing else was amiss.

    A checkpoint of a model with a task head has tensors outside the base model: they are the head.
    """
    missing = sorted(loading["missing_keys"])
    poolers = tuple(key for key in missing if _DENSE_POOLER in key)
    prefix = f"{model.base_model_prefix}."
    saved_as = next(iter(getattr(model.config, "architectures", None) or ()), None)
    has_head = saved_as not in (None, type(model).__name__)
    unexpected = [
        key
        for key in sorted(loading["unexpected_keys"])
        if not (has_head and not key.startswith(prefix))
    ]
    wrong = [tuple(item) for item in loading["mismatched_keys"]]
    absent = [key for key in missing if key not in poolers]
    if absent or unexpected or wrong:
        raise mismatch_error(name, missing=absent, unexpected=unexpected, wrong_shape=wrong)
    return poolers


def make_features(
    model: nn.Module, unloaded: Sequence[str], *, name: str, reverses_channels: bool = False
) -> nn.Module:
    """Return the vision part of a model with its pooling rule; see the module `hf` for the choice.

    Args:
        model: As AutoModel gives it.
        unloaded: Tensors of dense poolers that the weights lack.
        name: Of the backbone, for messages.
        reverses_channels: It was trained on blue, green, red.

    Raises:
        BackboneError: No model of images.
    """
    tower = getattr(model, "vision_model", model)
    if getattr(tower, "main_input_name", "pixel_values") != "pixel_values":
        raise BackboneError(
            f"{name}: takes {tower.main_input_name}, not images: it is no vision model."
        )
    pooler = getattr(tower, "pooler", None)
    has_dense = pooler is not None and hasattr(pooler, "dense")
    if has_dense:
        tower.pooler = None
    tensors = [key for key, _ in tower.named_parameters()]
    left = [key for key in unloaded if key.removeprefix("vision_model.") in tensors]
    if left:
        raise BackboneError(
            f"{name}: its features would pass through weights that were never loaded: "
            f"{', '.join(left)}."
        )
    token = any(key.rpartition(".")[2] in _CLASS_TOKENS for key in tensors)
    return HubFeatures(
        tower, pooled=not has_dense, class_token=token, reverses_channels=reverses_channels
    )
