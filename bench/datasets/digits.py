"""The 1,797 handwritten digits that ship inside scikit-learn; knows no other set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from bench.datasets.packaged import package_file
from bench.datasets.parts import conflicting_request
from bench.datasets.raw import assemble_dataset, number_ids
from bench.errors import DatasetError
from bench.interfaces import Located, Missing, RawDataset
from bench.spec import DatasetSpec

if TYPE_CHECKING:
    from bench.artifacts import ArtifactCache

_SIDE = 8
_NUM_IMAGES = 1797
_FULL_INK = 16
_HOW = "pip install scikit-learn"


class DigitsSource:
    """``digits``: 8 x 8 grey images in ten classes, one part; values 0 to 16 become 0 to 255."""

    prefix: ClassVar[str] = "digits"

    def names(self) -> Sequence[str]:
        """Return the one name."""
        return ("digits",)

    def check(self, spec: DatasetSpec) -> str | None:
        """Return what is wrong with a spec beyond an unknown name, or None."""
        return conflicting_request(spec)

    def locate(self, spec: DatasetSpec) -> Located:
        """Return the table inside scikit-learn, found without importing it."""
        path = package_file("sklearn", "datasets/data/digits.csv.gz")
        if path is None:
            return Located(missing=(Missing("data of digits", _HOW, downloadable=False),))
        return Located(files=(path,), packages=("scikit-learn", "pillow"))

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the images as one part, ``train``.

        Raises:
            DatasetError: scikit-learn is not installed whole.
        """
        from bench.datasets.arrays import array_examples, read_pixel_rows

        located = self.locate(spec)
        if not located.files:
            raise DatasetError(f"digits: scikit-learn's data file is not installed: {_HOW}")
        table = read_pixel_rows(
            located.files[0], num_rows=_NUM_IMAGES, num_columns=_SIDE**2 + 1, cache=cache
        )
        ink = table[:, :-1].astype("uint16").reshape(-1, _SIDE, _SIDE)
        pixels = ((ink * 255 + _FULL_INK // 2) // _FULL_INK).astype("uint8")
        examples = array_examples(pixels, table[:, -1], ids=number_ids("", len(table)))
        return assemble_dataset("digits", "0123456789", {"train": examples})
