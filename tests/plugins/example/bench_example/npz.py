"""``npz:<file>``: images and labels held as NumPy arrays, as MedMNIST has them; draws no split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.errors import DatasetError
from bench.interfaces import Located, Missing, RawDataset
from bench.spec import DatasetSpec

if TYPE_CHECKING:
    from bench.artifacts import ArtifactCache


class NpzSource:
    """``npz:~/x.npz``: ``train_images``, ``train_labels``, and val and test likewise if there."""

    prefix: ClassVar[str] = "npz"

    def names(self) -> Sequence[str]:
        """Return nothing: any file is a name."""
        return ()

    def check(self, spec: DatasetSpec) -> str | None:
        """Return that there is no such file, or None."""
        return None if _path(spec).is_file() else f"{spec.name}: there is no file {_path(spec)}."

    def locate(self, spec: DatasetSpec) -> Located:
        """Return the file."""
        if self.check(spec) is None:
            return Located(files=(_path(spec),), packages=("numpy", "pillow"))
        lack = Missing(f"data of {spec.name}", f"put it at {_path(spec)}", downloadable=False)
        return Located(missing=(lack,))

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the parts that the file has; an array that does not fit is a DatasetError."""
        import numpy as np

        from bench.datasets.arrays import array_examples
        from bench.datasets.raw import assemble_dataset, number_ids

        arrays = np.load(_path(spec), allow_pickle=False)
        if "train_images" not in arrays:
            raise DatasetError(f"{spec.name}: there is no array train_images in {_path(spec)}.")
        parts = {}
        for part in [name for name in ("train", "val", "test") if f"{name}_images" in arrays]:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].squeeze()
            if images.dtype != np.uint8 or labels.shape != images.shape[:1]:
                got = f"{images.dtype} {images.shape} and {labels.shape}"
                raise DatasetError(f"{spec.name}: {part}: not uint8 images and a label each: {got}")
            parts[part] = array_examples(images, labels, ids=number_ids(f"{part}/", len(images)))
        count = max(int(examples.labels.max()) for examples in parts.values()) + 1
        return assemble_dataset(spec.name, [str(index) for index in range(count)], parts)


def _path(spec: DatasetSpec) -> Path:
    return Path(spec.name.partition(":")[2]).expanduser()
