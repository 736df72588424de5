"""Sound files -> clips, through soundfile; knows no folder layout, no model and no sample rate."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np

from bench.datasets.extras import missing_extra
from bench.datasets.files import FileFormat
from bench.errors import DatasetError
from bench.interfaces import Clip

_UNKNOWN_SIZE = (0, 0xFFFFFFFF)
"""What stands for the length of a WAV file whose writer could not go back to its start."""


def sound_format() -> FileFormat:
    """Return how sound files are read and checked.

    Raises:
        DatasetError: The package soundfile is not installed.
    """
    soundfile = _import_soundfile()
    versions = {
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
    }
    return FileFormat("audio", versions, open_clip, clip_damage)


def open_clip(data: bytes) -> Clip:
    """Return the clip in a file's bytes, its channels averaged.

    Args:
        data: Of a WAV, FLAC, Ogg, MP3 or AIFF file.

    Raises:
        DatasetError: The package soundfile is not installed.
        ValueError: The bytes are no such file, are damaged, or hold no sample.
    """
    if missing := _missing_wav_bytes(data):
        raise ValueError(f"cut short: its last {missing} bytes are missing")
    soundfile = _import_soundfile()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            declared, rate = file.frames, file.samplerate
            channels: np.ndarray = file.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        reason = str(error).rpartition(": ")[2].strip(" .")
        raise ValueError(f"not a sound file, or a damaged one: {reason}") from error
    if len(channels) < declared:
        raise ValueError(f"damaged: {len(channels)} of {declared} samples can be read")
    if not len(channels):
        raise ValueError("holds no sample")
    if not np.isfinite(channels).all():
        raise ValueError("holds samples that are not finite")
    samples = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
    return Clip(samples=np.ascontiguousarray(samples), sample_rate=int(rate))


def clip_damage(data: bytes) -> str | None:
    """Return why a file's bytes are no clip, or None when they decode to the last sample."""
    if not data:
        return "empty file"
    try:
        open_clip(data)
    except ValueError as error:
        return str(error)
    return None


def _missing_wav_bytes(data: bytes) -> int:
    """Return how many bytes a WAV file says it holds but does not; libsndfile reads over that."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return 0
    start = 12
    while start + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, start)
        if name == b"data":
            return 0 if size in _UNKNOWN_SIZE else max(0, start + 8 + size - len(data))
        start += 8 + size + size % 2
    return 0


def _import_soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        reason = missing_extra("audio") or f"soundfile does not import: {error}"
        raise DatasetError(reason) from error
    return soundfile
