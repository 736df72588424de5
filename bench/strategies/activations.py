"""A feed of activations at a cut, read from the cache; knows no model and no cut.

Stored order is the memory order of the plain pass, and stored dtype is its dtype or a narrower one
that was verified, so that nothing is rearranged between the prefix and what follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.artifacts import RowArray
from bench.interfaces import Split
from bench.strategies.feed import Augment, Batch, fits_resident, read_ahead, timed

_CHUNK = 1024
# NumPy has no bfloat16: its bits are stored.
STORED = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "int16"}


@dataclass(frozen=True)
class Layout:
    """How activations of one example are stored.

    Attributes:
        shape: As stored: (H, W, C) where the cut has channels-last order.
        dtype: As stored.
        computed: As the plain pass has them; another than `dtype` only where that was verified.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    computed: torch.dtype
    channels_last: bool

    @property
    def num_bytes(self) -> int:
        """Bytes of one example."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def is_narrowed(self) -> bool:
        """Whether storing rounds."""
        return self.dtype != self.computed

    def store(self, activations: Tensor) -> Tensor:
        """Return activations in stored order and dtype."""
        ordered = activations.permute(0, 2, 3, 1) if self.channels_last else activations
        return ordered.to(self.dtype)

    def restore(self, stored: Tensor) -> Tensor:
        """Return stored activations in the model's order and dtype."""
        ordered = stored.permute(0, 3, 1, 2) if self.channels_last else stored
        return ordered.to(self.computed)


class ActivationFeed:
    """Activations of a split at a cut; a `Feed`.

    They are held on the device when they fit the budget of a feed, else read ahead by a thread.

    Args:
        split: Whose examples; their rows are present in the array.
        array: Activations by row of the pool.
        layout: Of the array's rows.
        device: Where batches go.
    """

    def __init__(self, split: Split, array: RowArray, layout: Layout, device: torch.device) -> None:
        self._split, self._array, self._layout, self._device = split, array, layout, device
        self._labels = torch.from_numpy(split.labels).to(device)
        self._held: Tensor | None = None
        if fits_resident(layout.num_bytes * len(split), device):
            shape = (len(split), *layout.shape)
            self._held = torch.empty(shape, dtype=layout.dtype, device=device)
            for start in range(0, len(split), _CHUNK):
                part = slice(start, start + _CHUNK)
                self._held[part] = self._read(torch.arange(len(split))[part])

    def __len__(self) -> int:
        return len(self._split)

    @property
    def labels(self) -> Tensor:
        """Class indices of all examples, on the device."""
        return self._labels

    @property
    def lengths(self) -> None:
        """Activations of all examples have one shape."""
        return None

    @property
    def is_resident(self) -> bool:
        """Whether the activations are held on the device."""
        return self._held is not None

    def _read(self, positions: Tensor) -> Tensor:
        values = torch.from_numpy(self._array.read(self._split.rows[positions.numpy()]))
        if self._layout.dtype == torch.bfloat16:
            values = values.view(torch.bfloat16)
        if self._device.type == "cuda":
            values = values.pin_memory()
        return values.to(self._device, non_blocking=True)

    def batches(
        self, order: Tensor, sizes: Sequence[int], augment: Augment | None = None
    ) -> Iterator[Batch]:
        """Yield consecutive batches of an order; see `Feed`. There is nothing to augment."""
        assert augment is None, "activations are cached only where nothing is augmented"
        # Moved once: a copy per batch would wait for the device each time.
        on_device = order.to(self._device)
        if self._held is not None:
            held = self._held
            values: Iterator[Tensor] = (held[part] for part in torch.split(on_device, list(sizes)))
        else:
            values = read_ahead(torch.split(order, list(sizes)), self._read)
        labels = torch.split(self._labels[on_device], list(sizes))
        for (stored, waited), batch_labels in zip(timed(values), labels, strict=True):
            yield Batch(self._layout.restore(stored), batch_labels, waited)
