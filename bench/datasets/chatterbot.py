"""The English exchanges of the ChatterBot corpus by topic, as a pip package holds them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from bench.datasets.parts import conflicting_request
from bench.datasets.raw import assemble_dataset, number_ids
from bench.digests import digest_file
from bench.errors import DatasetError
from bench.interfaces import Examples, Located, Missing, Modality, RawDataset
from bench.spec import DatasetSpec

if TYPE_CHECKING:
    from bench.artifacts import ArtifactCache

MIN_EXCHANGES = 60
_NAME = "chatterbot-topics"
_DISTRIBUTION = "chatterbot-corpus"
_HOW = "pip install 'transfer-bench[samples]'"
_VERSION = 1


class ChatterbotSource:
    """``chatterbot-topics``: what somebody says first -> the topic it is filed under, one part.

    A text counts once per topic; one that stands under two topics has no right answer and is left
    out, and so are topics with fewer than 60 texts.
    """

    prefix: ClassVar[str] = _NAME

    def names(self) -> Sequence[str]:
        """Return the one name."""
        return (_NAME,)

    def modality(self, spec: DatasetSpec) -> Modality:
        """Return ``text``."""
        return "text"

    def check(self, spec: DatasetSpec) -> str | None:
        """Return what is wrong with a spec beyond an unknown name, or None."""
        return conflicting_request(spec)

    def locate(self, spec: DatasetSpec) -> Located:
        """Return the files of the corpus, found without importing its package."""
        found = _find()
        if not found:
            return Located(missing=(Missing(f"data of {_NAME}", _HOW, downloadable=False),))
        return Located(files=found, packages=(_DISTRIBUTION,))

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the texts as one part, ``train``.

        Raises:
            DatasetError: The package is not installed, or a file of it is not as published.
        """
        found = _find()
        if not found:
            raise DatasetError(f"{_NAME}: the package {_DISTRIBUTION} is not installed: {_HOW}")
        key = {"version": _VERSION, "files": [digest_file(path) for path in found]}
        # Parsing YAML takes longer than all else that such a dataset needs.
        pairs = cache.json("tables", key, lambda: list(_read_pairs(found)))
        return _assemble([(str(text), str(topic)) for text, topic in pairs])


def _find() -> tuple[Path, ...]:
    try:
        listed = files(_DISTRIBUTION) or ()
    except PackageNotFoundError:
        return ()
    paths = [Path(str(file.locate())) for file in listed if "data/english/" in file.as_posix()]
    return tuple(sorted(path for path in paths if path.suffix == ".yml" and path.is_file()))


def _read_pairs(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield the first turn and the topic of every exchange."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in paths:
        try:
            content: Any = yaml.load(path.read_text(encoding="utf-8"), loader)  # a safe loader
            for exchange in content["conversations"]:
                if text := " ".join(str(exchange[0]).split()):
                    yield text, path.stem
        except (yaml.YAMLError, KeyError, TypeError, IndexError) as error:
            raise DatasetError(
                f"{path}: not a file of exchanges as published: {type(error).__name__}: {error}. "
                f"Reinstall {_DISTRIBUTION}."
            ) from error


def _assemble(pairs: Sequence[tuple[str, str]]) -> RawDataset:
    import numpy as np

    distinct = list(dict.fromkeys(pairs))
    topics_of = Counter(text for text, _ in distinct)
    clear = [(text, topic) for text, topic in distinct if topics_of[text] == 1]
    counts = Counter(topic for _, topic in clear)
    topics = sorted(topic for topic, count in counts.items() if count >= MIN_EXCHANGES)
    kept = [(text, topic) for text, topic in clear if topic in topics]
    texts = [text for text, _ in kept]
    examples = Examples(
        ids=number_ids("", len(texts)),
        labels=np.array([topics.index(topic) for _, topic in kept], dtype=np.int64),
        contents=tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts),
        read=texts.__getitem__,
        modality="text",
    )
    return assemble_dataset(_NAME, topics, {"train": examples})
