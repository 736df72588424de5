"""transformers' own `Trainer` on a backbone of bench, as its documentation has it."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.interfaces import TOKEN_PADDING, Backbone, Split
from bench.spec import TrainingSpec


class TrainerModel(nn.Module):
    """A text backbone and a head, with the arguments and the result that `Trainer` expects."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone.module)
        self.head = nn.Linear(backbone.info.feature_dim, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return the mean loss and the logits of a padded batch."""
        tokens = input_ids.masked_fill(attention_mask == 0, TOKEN_PADDING)
        logits = self.head(self.backbone(tokens).float())
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def token_rows(split: Split) -> list[dict[str, Any]]:
    """Return every example as the mapping that a tokenised dataset of the hub gives."""
    rows = []
    for row, label in zip(split.rows, split.labels, strict=True):
        ids = split.pool.gather(np.array([row]))[0].tolist()
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(label)})
    return rows


def train_an_epoch(
    model: TrainerModel, rows: list[dict[str, Any]], tokenizer: Any, setting: TrainingSpec
) -> None:
    """Train for an epoch with the collator that `Trainer` takes when it is given a tokenizer.

    It pads to the longest of a batch of examples in random order. Precision is fp32; logging,
    saving and evaluation are off, which is in its favour.
    """
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=int(setting.batch_size),  # type: ignore[arg-type]
            learning_rate=float(setting.learning_rate),  # type: ignore[arg-type]
            weight_decay=float(setting.weight_decay),  # type: ignore[arg-type]
            max_grad_norm=setting.clip_norm or 0.0,
            lr_scheduler_type="cosine",
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, processing_class=tokenizer
        )
        trainer.train()
