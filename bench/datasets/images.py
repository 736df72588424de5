"""Images -> shared pools of decoded bytes on disk; knows no split and no normalisation."""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from bench.artifacts import ArtifactCache
from bench.datasets.parts import PART_ORDER
from bench.digests import digest_value
from bench.errors import DatasetError
from bench.interfaces import Examples, RawDataset
from bench.pixels import decode_image, to_rgb
from bench.record import Preprocessing

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises on bytes it cannot decode; its format plugins do not agree on one class."""

_DECODER_VERSION = 1


def num_decoding_threads() -> int:
    """Return how many threads decode at once: the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_rgb(data: bytes) -> Image.Image:
    """Return the upright RGB image of a file's bytes; raises one of `UNREADABLE`."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return to_rgb(image)


def unreadable_reason(data: bytes) -> str | None:
    """Return why a file's bytes are not an image, or None when they decode to the last byte.

    JPEGs are decoded at an eighth of their size: all their data is still parsed, which is where
    damage shows, and the part that cannot fail is left out.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (1, 1))
            image.load()
            to_rgb(image)
    except UnidentifiedImageError:
        return "not an image" if data else "empty file"
    except UNREADABLE as error:
        return str(error) or type(error).__name__
    return None


def decode_encoded(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Return `decode_image` of a file's bytes: what a deployed model does to each request."""
    with Image.open(io.BytesIO(data)) as image:
        return decode_image(image, preprocessing)


class ImagePool:
    """Decoded images of every part of a dataset at one size, each decoded at most once.

    Attributes:
        digest: Of everything the decoded bytes depend on, the decoder's version included.
    """

    def __init__(
        self, dataset: RawDataset, preprocessing: Preprocessing, cache: ArtifactCache
    ) -> None:
        self._parts = [dataset.parts[name] for name in PART_ORDER if name in dataset.parts]
        self._starts = np.cumsum([0, *(len(part.ids) for part in self._parts)])
        self._preprocessing = preprocessing
        size = preprocessing.image_size
        key = {
            "fingerprint": dataset.fingerprint,
            "image_size": size,
            "interpolation": preprocessing.interpolation,
            "crop_fraction": preprocessing.crop_fraction,
            "decoder": [_DECODER_VERSION, PIL.__version__],
        }
        self.digest = digest_value(key)
        shape = (int(self._starts[-1]), size, size, 3)
        self._array = cache.rows("images", key, shape=shape, dtype="uint8")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return decoded rows, uint8, shape (B, S, S, 3), decoding in parallel what is not yet.

        Args:
            rows: Positions in the parts laid end to end (train, val, test), int64, shape (B,).

        Raises:
            DatasetError: An image cannot be decoded any more, by name.
        """
        self._array.ensure(rows, self._decode)
        return self._array.read(rows)

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        size = self._preprocessing.image_size
        out = np.empty((len(rows), size, size, 3), dtype=np.uint8)

        def decode_one(position: int) -> None:
            out[position] = self._decode_row(int(rows[position]))

        with ThreadPoolExecutor(num_decoding_threads()) as threads:
            for _ in threads.map(decode_one, range(len(rows))):
                pass
        return out

    def _decode_row(self, row: int) -> np.ndarray:
        part, position = self.locate(row)
        try:
            return decode_image(read_image(part, position), self._preprocessing)
        except UNREADABLE as error:
            raise DatasetError(
                f"{part.ids[position]} cannot be decoded: {error}. It could when the dataset was "
                "checked; run again if the file has changed since."
            ) from error

    def locate(self, row: int) -> tuple[Examples, int]:
        """Return the part that a row of the pool belongs to and its position there."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[index], row - int(self._starts[index])


def read_image(part: Examples, position: int) -> Image.Image:
    """Return an example of a part as its source has it.

    Raises:
        TypeError: The part holds no images.
    """
    image = part.read(position)
    if not isinstance(image, Image.Image):
        raise TypeError(f"{part.ids[position]} is {part.modality}, not an image")
    return image


def encode_example(pool: ImagePool, row: int) -> bytes:
    """Return a row as an encoded file: its own bytes, or a PNG where it is not stored as one."""
    part, position = pool.locate(row)
    if part.encoded is not None:
        return part.encoded(position)
    file = io.BytesIO()
    read_image(part, position).save(file, format="PNG")
    return file.getvalue()
