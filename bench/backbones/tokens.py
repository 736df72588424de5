"""A hub folder's tokenizer as an encoder of rows; knows no model and no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.backbones.hub_kind import text_files
from bench.digests import digest_value
from bench.errors import BackboneError
from bench.interfaces import EncodedRow, RawInput, RowEncoder


def load_tokenizer(folder: Path, *, name: str, trust_remote_code: bool) -> Any:
    """Return the tokenizer of a folder.

    Args:
        folder: Where its files are.
        name: Of the backbone, for messages.
        trust_remote_code: Whether code of the repository may run.

    Raises:
        BackboneError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise BackboneError(
            f"{name}: transformers cannot load a tokenizer from {folder}: "
            f"{type(error).__name__}: {error}"
        ) from error


def digest_tokenizer(tokenizer: Any, folder: Path) -> str:
    """Return sha256 of all that a tokenizer is made of; where its files lie is not in it.

    What a fast tokenizer keeps outside of its backend counts only where it is unusual: the side on
    which texts are cut, and the token of an empty text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # What was loaded, whichever of its files it came from.
        parts = [backend.to_str(), *_unusual_habits(tokenizer)]
    else:
        files = text_files(folder)
        parts = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return digest_value([type(tokenizer).__name__, *parts])


def _unusual_habits(tokenizer: Any) -> list[str]:
    habits = []
    if tokenizer.truncation_side != "right":
        habits.append(f"truncation_side {tokenizer.truncation_side}")
    special = [place for place, token in tokenizer.added_tokens_decoder.items() if token.special]
    nothing = _token_of_nothing(tokenizer)
    # As in GPT-2, whose first special token ends a text.
    if nothing != min(special, default=0) and not _tokenise(tokenizer, [""])[0]:
        habits.append(f"empty {nothing}")
    return habits


def make_encoder(tokenizer: Any, max_tokens: int, digest: str) -> RowEncoder:
    """Return what tokenises texts and cuts them to a length, special tokens kept.

    A text in which the tokenizer finds nothing becomes one token, of the end or of padding.

    Args:
        tokenizer: Of transformers.
        max_tokens: Most tokens of a row, special ones included.
        digest: Of the tokenizer.
    """
    import tokenizers
    import transformers

    nothing = _token_of_nothing(tokenizer)

    def encode(texts: Sequence[RawInput]) -> list[EncodedRow]:
        whole = _tokenise(tokenizer, [str(text) for text in texts])
        long = [place for place, ids in enumerate(whole) if len(ids) > max_tokens]
        cut = _tokenise(tokenizer, [str(texts[place]) for place in long], max_tokens)
        rows = [EncodedRow(np.array(ids or [nothing], dtype=np.int32)) for ids in whole]
        for place, ids in zip(long, cut, strict=True):
            rows[place] = EncodedRow(np.array(ids, dtype=np.int32), is_truncated=True)
        return rows

    versions = [tokenizers.__version__, transformers.__version__]
    return RowEncoder(encode, digest_value([digest, max_tokens, *versions]))


def _tokenise(
    tokenizer: Any, texts: Sequence[str], max_tokens: int | None = None
) -> list[list[int]]:
    if not texts:
        return []
    cut = {"truncation": True, "max_length": max_tokens} if max_tokens else {}
    tokens = tokenizer(list(texts), return_attention_mask=False, verbose=False, **cut)
    ids: list[list[int]] = tokens["input_ids"]
    return ids


def _token_of_nothing(tokenizer: Any) -> int:
    tokens = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    return next((token for token in tokens if token is not None), 0)
