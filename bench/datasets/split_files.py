"""Splits as a file of example ids, to export and to fix them; knows no image and draws nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from bench.errors import DatasetError
from bench.spec import Frozen

_NAMED = 3
"""Ids that a message names."""

SPLIT_NAMES = ("train", "val", "test")


class SplitDraw(Frozen):
    """Which examples are train, val and test, by id.

    Attributes:
        seed: Of the cells that have them; None is every seed.
        fold: The fold that test is; None where there are no folds.
        val: None is drawn from train by the seed; empty is none at all.
    """

    seed: int | None = None
    fold: int | None = None
    train: tuple[str, ...] = Field(min_length=1)
    val: tuple[str, ...] | None = None
    test: tuple[str, ...] = Field(min_length=1)

    def items(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return the ids of the splits that are given, by name."""
        parts = ((name, getattr(self, name)) for name in SPLIT_NAMES)
        return tuple((name, ids) for name, ids in parts if ids is not None)


class SplitFile(Frozen):
    """The splits of one dataset, for every seed and fold.

    A mapping with ``train``, ``test`` and perhaps ``val`` alone stands for one draw of every seed.

    Attributes:
        version: Of this format.
        dataset: Name of the dataset, for people.
        fingerprint: Digest of the data that the ids are of; None is not compared.
        split_seed: That drew the test split, for people.
    """

    version: Literal[1] = 1
    dataset: str | None = None
    fingerprint: str | None = None
    split_seed: int | None = None
    draws: tuple[SplitDraw, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_draw_alone(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "draws" in data:
            return data
        own = {name: data[name] for name in SPLIT_NAMES if name in data}
        rest = {name: value for name, value in data.items() if name not in own}
        return {**rest, "draws": [own]}

    def draw_of(self, path: Path, seed: int, fold: int | None) -> SplitDraw:
        """Return the draw of a seed and fold.

        Args:
            path: Of the file, for messages.
            seed: Of the cell.
            fold: Of the cell; None where there are no folds.

        Raises:
            DatasetError: The file has none, or several.
        """
        found = [draw for draw in self.draws if draw.fold == fold and draw.seed in (None, seed)]
        if len(found) == 1:
            return found[0]
        wanted = f"seed {seed}" + ("" if fold is None else f", fold {fold}")
        if found:
            raise DatasetError(f"{path} has {len(found)} draws for {wanted}: keep one of them.")
        held = "; ".join(dict.fromkeys(_title(draw) for draw in self.draws))
        raise DatasetError(
            f"{path} has no draw for {wanted}, only for {held}. Export it again with this suite, "
            "or leave seed out of a draw that is for every seed."
        )

    def require_folds(self, path: Path, seed: int, folds: int) -> None:
        """Refuse folds of a seed that are not just these, or that test an example twice.

        Raises:
            DatasetError: A fold is missing or one more is there, or an id is in the test splits of
                two of them.
        """
        held = {draw.fold for draw in self.draws if draw.seed in (None, seed)}
        if more := sorted(fold for fold in held if fold is not None and fold >= folds):
            raise DatasetError(
                f"{path} has fold {more[-1]} of seed {seed} too, counted from 0, and the suite has "
                f"folds: {folds}. Set folds to what the file holds."
            )
        tested: dict[str, int] = {}
        for fold in range(folds):
            for id_ in self.draw_of(path, seed, fold).test:
                if tested.setdefault(id_, fold) != fold:
                    raise DatasetError(
                        f"{path}: folds {tested[id_]} and {fold} of seed {seed} both test "
                        f"'{id_}'; an example is in the test split of one fold."
                    )


def read_split_file(path: Path) -> SplitFile:
    """Return the splits of a file.

    Raises:
        DatasetError: It cannot be read, or is not a file of splits.
    """
    try:
        return SplitFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DatasetError(
            f"no file of splits at {path}: {error.strerror}. Write one with: "
            "bench splits export SUITE"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise DatasetError(
            f"{path} is not a file of splits: {where}: {first['msg']}. It holds train, test and "
            "perhaps val as lists of ids, or draws, a list of such mappings with seed and fold."
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path} is not a file of splits: not JSON: {error}.") from error


def write_split_file(path: Path, file: SplitFile) -> None:
    """Write splits as JSON that `read_split_file` reads, its folder made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(file.model_dump(mode="json"), ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def find_rows(path: Path, draw: SplitDraw, places: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the rows of each split that a draw gives, ascending.

    Args:
        path: Of the file, for messages.
        draw: Ids.
        places: Id -> row, of every example of the dataset.

    Raises:
        DatasetError: An id is unknown, stands twice in a split, or in two splits.
    """
    owner: dict[str, str] = {}
    for name, ids in draw.items():
        unknown = [id_ for id_ in ids if id_ not in places]
        if unknown:
            raise DatasetError(
                f"{path}: {len(unknown)} ids of {name} are not in the data: {_named(unknown)}. "
                f"Its ids are like: {_named(list(places))}."
            )
        twice = [id_ for id_, count in Counter(ids).items() if count > 1]
        if twice:
            raise DatasetError(f"{path}: ids stand twice in {name}: {_named(twice)}.")
        shared = [id_ for id_ in ids if id_ in owner]
        if shared:
            raise DatasetError(
                f"{path}: ids are in both {owner[shared[0]]} and {name}: {_named(shared)}. An "
                "example belongs to one split."
            )
        owner |= dict.fromkeys(ids, name)
    return {
        name: np.sort(np.array([places[id_] for id_ in ids], dtype=np.int64))
        for name, ids in draw.items()
    }


def _title(draw: SplitDraw) -> str:
    seed = "every seed" if draw.seed is None else f"seed {draw.seed}"
    return seed if draw.fold is None else f"{seed}, fold {draw.fold}"


def _named(ids: list[str]) -> str:
    more = len(ids) - _NAMED
    text = ", ".join(f"'{id_}'" for id_ in ids[:_NAMED])
    return f"{text} and {more} more" if more > 0 else text
