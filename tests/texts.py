"""Tiny real text models with a tokenizer trained on the spot, and texts of two topics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from bench.backbones.hf import HubSource
from bench.datasets.raw import assemble_dataset
from bench.interfaces import Backbone, Examples, RawDataset
from bench.spec import BackboneSpec

WORDS = (
    ("ship", "harbour", "sail", "wave", "anchor", "captain", "tide", "deck"),
    ("bread", "oven", "flour", "butter", "sugar", "dough", "cake", "spoon"),
)
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[END]"]
_SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def make_texts(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Return distinct texts of 1 to 30 words on one of two topics, and their topics."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 2
    lengths = rng.integers(1, 31, size=count)
    texts = [
        f"{number} " + " ".join(rng.choice(WORDS[label], size=length))
        for number, (label, length) in enumerate(zip(labels, lengths, strict=True))
    ]
    return texts, labels


def make_dataset(texts: Sequence[str], labels: np.ndarray, name: str = "texts") -> RawDataset:
    """Return texts as a dataset of one part."""
    examples = Examples(
        ids=tuple(f"t{number}" for number in range(len(texts))),
        labels=labels,
        contents=tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts),
        read=list(texts).__getitem__,
        modality="text",
    )
    return assemble_dataset(name, ("sea", "kitchen"), {"train": examples})


def train_tokenizer(kind: str) -> Any:
    """Return a tokenizer of words; that of ``gpt2`` adds nothing and has no padding token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(make_texts(400)[0], trainer)
    if kind == "gpt2":
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="[END]", unk_token="[UNK]"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )


def make_model(kind: str, vocab_size: int, max_positions: int = 64) -> torch.nn.Module:
    """Return a model of three layers with random weights: ``bert``, ``roberta`` or ``gpt2``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "gpt2":
            config = transformers.GPT2Config(
                vocab_size=vocab_size, n_positions=max_positions, n_embd=32, n_layer=3, n_head=2
            )
            return transformers.GPT2Model(config)
        sizes = {**_SIZE, "intermediate_size": 48, "vocab_size": vocab_size, "pad_token_id": 0}
        sizes["max_position_embeddings"] = max_positions
        if kind == "roberta":
            return transformers.RobertaModel(transformers.RobertaConfig(**sizes))
        return transformers.BertModel(transformers.BertConfig(**sizes))


def save_text_model(folder: Path, kind: str, max_positions: int = 64) -> Path:
    """Write a tiny model and its tokenizer as `save_pretrained` does, and return the folder."""
    transformers.utils.logging.disable_progress_bar()
    tokenizer = train_tokenizer(kind)
    tokenizer.save_pretrained(folder)
    make_model(kind, len(tokenizer), max_positions).save_pretrained(folder)
    return folder


def load_text_backbone(folder: Path, **fields: object) -> Backbone:
    """Return the backbone of a folder as a cell loads it."""
    spec = BackboneSpec(name=f"hf/{folder}", **fields)
    return HubSource().load(spec, image_size=None, seed=0)
