"""A transformers audio model as samples or frames -> features; knows no clip and no rate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.backbones.lengths import run_by_length


class LengthAwareNorm(nn.GroupNorm):
    """A norm of each channel over time, whose statistics leave the padding out.

    The first convolution of wav2vec2-base, HuBERT-base and WavLM-base is followed by such a norm;
    computed over the padding too, the features of a clip would depend on its company in a batch.

    Args:
        norm: With as many groups as channels; its weight and bias are used.

    Source: Wu & He, 2018, Group Normalization; Baevski et al., 2020, wav2vec 2.0.
    """

    lengths: Tensor | None
    """Frames before the padding, int64, shape (B,); None where there is no padding."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, affine=False)
        self.weight, self.bias = norm.weight, norm.bias
        self.lengths = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return normed maps, shape (B, C, T), zero behind a clip's end."""
        norm = super().forward
        if self.lengths is None:
            return norm(inputs)
        # Clip by clip: masked sums over such long maps take several times as long.
        clips = zip(torch.split(inputs, 1), self.lengths.tolist(), strict=True)
        width = inputs.shape[2]
        return torch.cat([F.pad(norm(clip[:, :, :n]), (0, width - n)) for clip, n in clips])


class WaveFeatures(nn.Module):
    """A model of samples (wav2vec 2.0 and its kin); features are the mean of its last states.

    A clip has the features that it has alone, whatever it is padded to.

    Args:
        model: Takes ``input_values`` and ``attention_mask``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        norm = _find_norm(model)
        if isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels:
            _first_convolution(model).layer_norm = LengthAwareNorm(norm)
        self.pads = True
        """Whether clips of several lengths go through the model at once; else each length goes
        alone, for models in which padding leaks into the states of a clip."""

    def extra_repr(self) -> str:
        """Name what no parameter shows, since it is part of the digest of the weights."""
        return "pooling=mean"

    def forward(self, samples: Tensor) -> Tensor:
        """Return features (B, D) of samples (B, L), NaN behind the end of a clip."""
        present = ~samples.isnan()
        # One clip is its batch's longest. Of several, a GPU's answer would have to be waited for.
        if len(samples) == 1 or (not samples.is_cuda and bool(present.all())):
            return self._pool(samples, None)
        if self.pads:
            return self._pool(torch.where(present, samples, 0.0), present)
        return run_by_length(samples, present, lambda clips: self._pool(clips, None))

    def _pool(self, samples: Tensor, present: Tensor | None) -> Tensor:
        """Return the mean over the states of the samples that are present; None: of all."""
        model: Any = self.model
        if present is None:
            hidden: Tensor = model(input_values=samples).last_hidden_state
            return hidden.float().mean(1)
        lengths = present.sum(1)
        with self._knowing(lengths):
            mask = present.long()
            hidden = model(input_values=samples, attention_mask=mask).last_hidden_state
        frames: Tensor = model._get_feat_extract_output_lengths(lengths)
        return _mean_before(hidden, frames)

    @contextmanager
    def _knowing(self, lengths: Tensor) -> Iterator[None]:
        """Tell the norm over time where each clip ends, in samples, shape (B,)."""
        norm = _find_norm(self.model)
        if not isinstance(norm, LengthAwareNorm):
            yield
            return
        norm.lengths = _frames_of_first(self.model.config, lengths)
        try:
            yield
        finally:
            norm.lengths = None


class SpectrumFeatures(nn.Module):
    """A model of a fixed number of log-mel frames: the encoder of Whisper, or AST.

    Args:
        model: Takes as many frames as it has positions for.
        num_frames: That number.
        num_mels: Values of a frame.
        pooled: Whether the feature is the model's own pooled output (AST: the mean of class and
            distillation token); else it is the mean over the states before the padding.
    """

    def __init__(self, model: nn.Module, *, num_frames: int, num_mels: int, pooled: bool) -> None:
        super().__init__()
        self.model = model
        self._num_frames = num_frames
        self._num_mels = num_mels
        self._pooled = pooled

    def extra_repr(self) -> str:
        """Name what no parameter shows, since it is part of the digest of the weights."""
        return f"pooling={'own' if self._pooled else 'mean'}"

    def forward(self, rows: Tensor) -> Tensor:
        """Return features (B, D).

        Args:
            rows: Frames laid end to end, shape (B, frames * mels), NaN behind the last of a clip;
                if there are fewer than the model takes, the last one is silence and is repeated.
        """
        model: Any = self.model
        spectrum, kept = self._fill(rows)
        if self._pooled:
            pooled: Tensor = model(input_values=spectrum).pooler_output
            return pooled
        hidden: Tensor = model(input_features=spectrum.transpose(1, 2)).last_hidden_state
        sounding = torch.where(kept < self._num_frames, kept - 1, kept).clamp(min=1)
        per_state = self._num_frames // hidden.shape[1]
        return _mean_before(hidden, (sounding + per_state - 1) // per_state)

    def _fill(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return all frames (B, frames, mels) and how many were given of each clip (B,)."""
        count = min(rows.shape[1] // self._num_mels, self._num_frames)
        given = rows[:, : count * self._num_mels].reshape(len(rows), count, self._num_mels)
        present = ~given[:, :, :1].isnan()
        kept = present.sum((1, 2))
        last = given[torch.arange(len(given), device=given.device), kept - 1][:, None]
        behind = last.expand(-1, self._num_frames - count, -1)
        return torch.cat([torch.where(present, given, last), behind], dim=1), kept


def min_samples(config: Any) -> int:
    """Return how many samples the convolutions of a model need for one state."""
    samples = 1
    layers = zip(config.conv_kernel, config.conv_stride, strict=True)
    for kernel, stride in reversed(list(layers)):
        samples = (samples - 1) * stride + kernel
    return samples


def _frames_of_first(config: Any, lengths: Tensor) -> Tensor:
    """Return how many frames of the first convolution lie before the padding, shape (B,)."""
    steps: Tensor = (lengths - config.conv_kernel[0]) // config.conv_stride[0]
    return steps + 1


def _mean_before(hidden: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of the first states of each clip, float32, shape (B, D).

    Args:
        hidden: Shape (B, T, D).
        counts: Of states before the padding, of 1 at least, shape (B,).
    """
    present = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]
    # Not a product: what lies behind the end need not be finite.
    states = torch.where(present[:, :, None], hidden.float(), 0.0)
    mean: Tensor = states.sum(1) / counts[:, None]
    return mean


def _first_convolution(model: nn.Module) -> Any:
    layers = getattr(getattr(model, "feature_extractor", None), "conv_layers", None)
    return None if layers is None else layers[0]


def _find_norm(model: nn.Module) -> nn.Module | None:
    """Return the norm behind the first convolution of a model of samples, if it has one."""
    norm: nn.Module | None = getattr(_first_convolution(model), "layer_norm", None)
    return norm
