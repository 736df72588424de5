"""Where a model's inputs come from, batch by batch; it knows no model, no loss and no epochs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.interfaces import TOKEN_PADDING, Split
from bench.record import InputPreprocessing
from bench.strategies.buckets import lengths_of
from bench.strategies.inputs import load_batch, normalise

T = TypeVar("T")
Augment: TypeAlias = Callable[[Tensor], Tensor]

HOST_BUDGET_BYTES = 1 << 30
DEVICE_BUDGET_FRACTION = 0.4
_CHUNK = 1024
_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Inputs as the model takes them, with labels, both on the device.

    Attributes:
        labels: Class indices, int64, shape (B,); of mixed examples probabilities, float32, (B, K).
        waited_seconds: How long the consumer was blocked until the stored examples were there;
            None where a feed does not measure it.
    """

    inputs: Tensor
    labels: Tensor
    waited_seconds: float | None = None


class Feed(Protocol):
    """Examples of one split in any order, as some part of a model takes them.

    The training loop sees nothing else of the data: a feed of activations at a cut, with the rest
    of the model behind it, trains as a feed of inputs does.
    """

    @property
    def labels(self) -> Tensor:
        """Class indices of all examples, int64, shape (N,), on the device."""
        ...

    @property
    def lengths(self) -> Tensor | None:
        """Length of each example, int64, shape (N,), on the CPU; None where all are alike."""
        ...

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def batches(
        self, order: Tensor, sizes: Sequence[int], augment: Augment | None = None
    ) -> Iterator[Batch]:
        """Yield consecutive batches of an order.

        Args:
            order: Positions within the split, int64, on the CPU.
            sizes: Examples per batch; they sum to the length of the order.
            augment: Takes and returns images in [0, 1], float32, shape (B, H, W, 3).
        """
        ...


class InputFeed:
    """Inputs of a split as its backbone takes them, see `normalise`.

    Texts and clips are padded to the longest of their batch. Decoded examples are held on the
    device when they fit the budget: 1 GiB of host memory, or 40% of the free memory of a GPU. Else
    a thread reads the next batches while the device works.

    Args:
        split: Whose examples.
        preprocessing: Of the backbone.
        device: Where batches go.
        resident: False streams even what would fit, which is right for a single pass.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: InputPreprocessing,
        device: torch.device,
        *,
        resident: bool,
    ) -> None:
        self._split = split
        self._preprocessing = preprocessing
        self._device = device
        self._labels = torch.from_numpy(split.labels).to(device)
        self._lengths = lengths_of(split)
        self._held = load_resident(split, device) if resident else None

    def __len__(self) -> int:
        return len(self._split)

    @property
    def labels(self) -> Tensor:
        """Class indices of all examples, on the device."""
        return self._labels

    @property
    def lengths(self) -> Tensor | None:
        """Length of each text or clip, on the CPU; None for images."""
        return self._lengths

    @property
    def is_resident(self) -> bool:
        """Whether the examples are held on the device."""
        return self._held is not None

    def batches(
        self, order: Tensor, sizes: Sequence[int], augment: Augment | None = None
    ) -> Iterator[Batch]:
        """Yield consecutive batches of an order; see `Feed`."""
        on_device = order.to(self._device)
        labels = torch.split(self._labels[on_device], list(sizes))
        if self._held is not None:
            examples = self._take(self._held, order, on_device, sizes)
        else:
            examples = self._stream(torch.split(order, list(sizes)))
        for (raw, waited), batch_labels in zip(timed(examples), labels, strict=True):
            shown = raw if augment is None else augment(raw.float().mul_(1 / 255))
            yield Batch(normalise(shown, self._preprocessing), batch_labels, waited)

    def _take(
        self, held: Tensor, order: Tensor, on_device: Tensor, sizes: Sequence[int]
    ) -> Iterator[Tensor]:
        """Yield batches of what is held, cut behind the longest example of each."""
        parts = torch.split(on_device, list(sizes))
        if self._lengths is None:
            yield from (held[part] for part in parts)
            return
        lengths_of_parts = torch.split(self._lengths[order], list(sizes))
        for part, lengths in zip(parts, lengths_of_parts, strict=True):
            yield held[:, : int(lengths.max())][part]

    def _stream(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        return read_ahead(parts, lambda part: load_batch(self._split, part.numpy(), self._device))


def read_ahead(parts: Sequence[Tensor], read: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """Yield what a thread reads for each part, a few parts ahead of the consumer."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead: deque[Future[Tensor]] = deque()
        for part in parts:
            ahead.append(reader.submit(read, part))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def timed(items: Iterator[T]) -> Iterator[tuple[T, float]]:
    """Yield each item with the seconds for which the consumer was blocked by asking for it."""
    began = perf_counter()
    for item in items:
        yield item, perf_counter() - began
        began = perf_counter()


def fits_resident(num_bytes: int, device: torch.device) -> bool:
    """Return whether data may be held on the device: 1 GiB of a host, 40% of what a GPU has."""
    if device.type == "cuda":
        return num_bytes <= int(DEVICE_BUDGET_FRACTION * torch.cuda.mem_get_info(device)[0])
    return num_bytes <= HOST_BUDGET_BYTES


def load_resident(split: Split, device: torch.device) -> Tensor | None:
    """Return all decoded examples of a split on the device, as `load_batch` does, if they fit.

    They are read by chunks, so that the host never holds a second copy of a large split.
    """
    first, lengths = load_batch(split, slice(0, 1), device), lengths_of(split)
    shape = first.shape[1:] if lengths is None else (int(lengths.max()),)
    num_bytes = torch.Size(shape).numel() * first.itemsize * len(split)
    if not fits_resident(num_bytes, device):
        return None
    held = torch.empty((len(split), *shape), dtype=first.dtype, device=device)
    for start in range(0, len(split), _CHUNK):
        chunk = load_batch(split, slice(start, start + _CHUNK), device)
        if lengths is None:
            held[start : start + _CHUNK] = chunk
        else:
            held[start : start + _CHUNK] = pad_rows(chunk, shape[0])
    return held


def pad_rows(rows: Tensor, width: int) -> Tensor:
    """Return rows of tokens or samples padded at the end, shape (B, width)."""
    padding = float("nan") if rows.is_floating_point() else TOKEN_PADDING
    return F.pad(rows, (0, width - rows.shape[1]), value=padding)


def batch_sizes(num_examples: int, batch_size: int) -> tuple[int, ...]:
    """Return the sizes of the batches of one epoch, none dropped.

    A last batch of one joins the one before: batch statistics of a single example do not exist
    where a map is 1 x 1, and say nothing elsewhere.
    """
    full, rest = divmod(num_examples, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    if len(sizes) > 1 and sizes[-1] == 1 and batch_size > 1:
        sizes[-2:] = [batch_size + 1]
    return tuple(sizes)
