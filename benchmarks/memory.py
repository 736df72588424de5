"""Anonymous memory of child processes, sampled from outside, and a folder to fill it with."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Self

import numpy as np
import psutil
from PIL import Image

_SAMPLE_SECONDS = 0.02
_NUM_DISTINCT = 200
_NUM_CLASSES = 10


class MemoryWatch:
    """The most that any descendant of this process held above its first reading.

    Anonymous resident memory (RssAnon) leaves out pages of files, which the kernel takes back. A
    child is forked from a server that has its libraries loaded, so its first reading is its floor.

    Attributes:
        highest_bytes: Over all descendants so far.
    """

    def __init__(self) -> None:
        self.highest_bytes = 0
        self._floors: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(_SAMPLE_SECONDS):
            # The cells are children of the server, which grows while it imports and then no more.
            for server in own.children():
                for child in server.children():
                    self._note(child.pid)

    def _note(self, pid: int) -> None:
        held = anonymous_bytes(pid)
        if held is not None:
            floor = self._floors.setdefault(pid, held)
            self.highest_bytes = max(self.highest_bytes, held - floor)


def anonymous_bytes(pid: int) -> int | None:
    """Return RssAnon of a process, None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(values[0]) * 1024 if values else None


def write_photos(root: Path, count: int) -> None:
    """Write a class folder per class, full of JPEGs that all differ in content.

    A few hundred are drawn; the others are these with a comment of their own in the file, so that
    writing thousands takes seconds and each is still a file to read, digest and decode.

    Args:
        root: Gets the class folders.
        count: Images in all.
    """
    rng = np.random.default_rng(0)
    distinct = [_draw_jpeg(rng, number % _NUM_CLASSES) for number in range(_NUM_DISTINCT)]
    for name in range(_NUM_CLASSES):
        (root / f"class{name}").mkdir(parents=True)
    for number in range(count):
        data = distinct[number % _NUM_DISTINCT]
        comment = f"{number:08d}".encode()
        marked = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
        (root / f"class{number % _NUM_CLASSES}" / f"{number:06d}.jpg").write_bytes(marked)


def _draw_jpeg(rng: np.random.Generator, tint: int) -> bytes:
    """Return a smooth random picture of 288 x 256 with the detail and size of a small photo."""
    coarse = rng.integers(0, 256, size=(12, 14, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((288, 256), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 12, size=(256, 288, 3)) + np.array([tint * 4, 0, -tint * 4])
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=85)
    return file.getvalue()
