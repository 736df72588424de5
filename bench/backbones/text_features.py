"""A transformers text model as token ids -> features; imports torch, knows no tokenizer."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from bench.backbones.lengths import run_by_length
from bench.interfaces import TOKEN_PADDING

Pooling: TypeAlias = Literal["cls", "mean", "last"]


class TextFeatures(nn.Module):
    """A text model and the rule by which its last hidden states become features.

    A text has the features that it has alone, whatever it is padded to.

    Args:
        model: Takes ``input_ids`` and ``attention_mask``.
        pooling: ``cls``: the first token's state; ``last``: that of the last token before the
            padding; ``mean``: the mean over all tokens before the padding.
        pad_token: The model's own padding token, shown behind the end, where nothing attends to it.
    """

    def __init__(self, model: nn.Module, *, pooling: Pooling, pad_token: int) -> None:
        super().__init__()
        self.model = model
        self._pooling = pooling
        self._pad_token = pad_token
        self.pads = True
        """Whether texts of several lengths go through the model at once; else each length goes
        alone, for models in which padding leaks into the states of a text."""

    def extra_repr(self) -> str:
        """Name what no parameter shows, since it is part of the digest of the weights."""
        return f"pooling={self._pooling}" + ("" if self.pads else ", pads=False")

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features (B, D) of token ids (B, L), padded at the end with `TOKEN_PADDING`."""
        present = tokens != TOKEN_PADDING
        if self.pads or bool(present.all()):
            return self._pool(tokens, present)
        return run_by_length(tokens, present, lambda rows: self._pool(rows, rows != TOKEN_PADDING))

    def _pool(self, tokens: Tensor, present: Tensor) -> Tensor:
        ids = tokens.masked_fill(~present, self._pad_token)
        output: Any = self.model(input_ids=ids, attention_mask=present.long())
        hidden: Tensor = output.last_hidden_state
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), present.sum(1) - 1]
        weights = present[:, :, None].float()
        return (hidden.float() * weights).sum(1) / weights.sum(1)


def default_pooling(model_type: str) -> Pooling:
    """Return the pooling that fits how a kind of model was trained.

    Models that see both sides (trained to fill masked tokens) have a token in front that stands
    for the text; in models that see only what came before, the last token is the one that has seen
    all of it.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "cls"
    return "last" if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "mean"
