"""Sound files as datasets: formats, damage, resampling, and what a folder may hold."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.artifacts import ArtifactCache
from bench.backbones.clip_rows import resample
from bench.datasets.clips import clip_damage, open_clip
from bench.datasets.folder import FolderSource
from bench.errors import BackboneError, DatasetError
from bench.interfaces import Clip
from bench.registry import dataset_modality
from bench.spec import DatasetSpec
from tests.audio import RATE, tone, write_clips

soundfile = pytest.importorskip("soundfile", reason="the audio extra is not installed")
SOURCE = FolderSource()


def encode(samples: np.ndarray, kind: str = "WAV", rate: int = RATE, **options: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def load(root: Path, cache: ArtifactCache, **fields: float):
    return SOURCE.load(DatasetSpec(name=f"folder:{root}", **fields), cache)


@pytest.mark.parametrize(("kind", "bound"), [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.05)])
def test_a_clip_is_what_was_written_with_its_own_rate(kind: str, bound: float) -> None:
    samples = tone(440, 0.5, 22_050)
    clip = open_clip(encode(samples, kind, 22_050))
    assert (clip.sample_rate, clip.samples.dtype, clip.samples.shape) == (22_050, "f4", (11_025,))
    np.testing.assert_allclose(clip.samples, samples, atol=bound)


def test_channels_are_averaged() -> None:
    left, right = tone(300, 0.2), tone(500, 0.2)
    clip = open_clip(encode(np.stack([left, right], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(clip.samples, (left + right) / 2, atol=1e-6)


def damaged_files() -> dict[str, tuple[bytes, str]]:
    whole = {kind: encode(tone(440, 0.5), kind) for kind in ("WAV", "FLAC", "OGG")}
    silent = encode(np.zeros(0, dtype=np.float32))
    unbounded = encode(np.array([0.1, np.nan, 0.1], dtype=np.float32), subtype="FLOAT")
    return {
        "nothing in it": (b"", "empty file"),
        "text": (b"this is no sound" * 20, "not a sound file"),
        "half a wav": (whole["WAV"][: len(whole["WAV"]) // 2], "last 8022 bytes are missing"),
        "half a flac": (whole["FLAC"][: len(whole["FLAC"]) // 2], "damaged"),
        "half an ogg": (whole["OGG"][: len(whole["OGG"]) // 2], "damaged"),
        "no samples": (silent, "holds no sample"),
        "not a number": (unbounded, "not finite"),
    }


@pytest.mark.parametrize("name", damaged_files())
def test_damage_is_told(name: str) -> None:
    data, reason = damaged_files()[name]
    assert reason in str(clip_damage(data))


def test_a_wav_whose_writer_could_not_go_back_to_its_start_is_whole() -> None:
    data = bytearray(encode(tone(440, 0.1)))
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"
    assert len(open_clip(bytes(data)).samples) == 1600


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_frequency_level_and_length(rate: int) -> None:
    samples = resample(Clip(tone(1_000, 1.0, rate), rate), RATE)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(RATE, abs=1)
    inner = samples[2_000:14_000].astype(float)
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    assert spectrum.argmax() * RATE / len(inner) == pytest.approx(1_000, abs=1)
    np.testing.assert_allclose(samples[2_000:14_000], tone(1_000, 1.0)[2_000:14_000], atol=1e-3)


def test_what_the_lower_rate_cannot_hold_is_gone_and_not_folded_back() -> None:
    kept, gone = (resample(Clip(tone(f, 1.0, 48_000), 48_000), RATE) for f in (7_000, 9_000))
    levels = [float(np.sqrt(np.mean(wave[2_000:14_000] ** 2))) for wave in (kept, gone)]
    assert levels[0] == pytest.approx(0.5 / np.sqrt(2), rel=1e-2)
    assert levels[1] < 1e-4


def test_a_clip_at_the_right_rate_is_left_as_it_is() -> None:
    samples = tone(440, 0.1)
    assert resample(Clip(samples, RATE), RATE) is samples


def test_class_folders_of_sound_are_a_dataset_of_clips(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    root = write_clips(tmp_path / "sounds", per_class=4)
    spec = DatasetSpec(name=f"folder:{root}")
    assert SOURCE.check(spec) is None
    assert dataset_modality(spec) == "audio"
    assert SOURCE.locate(spec).packages == ("soundfile",)
    data = load(root, cache)
    train = data.parts["train"]
    assert (data.class_names, len(train.ids)) == (("high", "low", "noise"), 12)
    assert train.modality == "audio"
    assert train.ids[0] == "high/000.wav"
    clip = train.read(0)
    assert isinstance(clip, Clip)
    assert clip.sample_rate == 8_000
    assert train.encoded is not None
    np.testing.assert_array_equal(open_clip(train.encoded(0)).samples, clip.samples)


def test_damaged_clips_are_counted_and_too_many_are_refused(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    root = write_clips(tmp_path / "sounds", per_class=4)
    (root / "low" / "001.flac").write_bytes(b"no sound")
    with pytest.raises(DatasetError, match=r"low/001\.flac \(not a sound file"):
        load(root, cache)
    data = load(root, cache, max_corrupt_fraction=0.1)
    assert (data.num_corrupt, data.corrupt) == (1, ("low/001.flac",))
    assert len(data.parts["train"].ids) == 11


def test_the_modality_of_a_folder_is_known_without_torch_and_without_soundfile(
    tmp_path: Path,
) -> None:
    root = write_clips(tmp_path / "sounds", per_class=2)
    code = (
        "import sys\n"
        "from bench.registry import dataset_modality\n"
        "from bench.spec import DatasetSpec\n"
        f"print(dataset_modality(DatasetSpec(name='folder:{root}')))\n"
        "print({'torch', 'soundfile', 'PIL'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["audio", "set()"]


def test_sound_beside_images_is_left_alone(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "pictures", per_class=2)
    folders = list(root.iterdir())
    for folder in folders:
        Image.new("RGB", (4, 4)).save(folder / "zebra.png")
    spec = DatasetSpec(name=f"folder:{root}")
    assert SOURCE.check(spec) is None
    assert SOURCE.modality(spec) == "image"
    assert [path.name for path in SOURCE.locate(spec).files] == ["zebra.png"] * len(folders)


def test_a_class_without_images_is_named_where_others_have_some(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "sounds", per_class=2)
    Image.new("RGB", (4, 4)).save(root / "low" / "zebra.png")
    problem = SOURCE.check(DatasetSpec(name=f"folder:{root}"))
    assert problem is not None
    assert problem.startswith(f"class folder {root / 'high'} holds no images. Fill it or remove it")


def test_clips_without_class_folders_are_named_as_such(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "sounds", per_class=2)
    problem = SOURCE.check(DatasetSpec(name=f"folder:{root / 'low'}"))
    assert problem is not None
    assert "holds clips but no class folders" in problem


def test_the_extra_is_named_where_its_packages_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_clips(tmp_path / "sounds", per_class=2)
    data = encode(tone(440, 0.1))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    extra = r"pip install 'transfer-bench\[audio\]'"
    problem = SOURCE.check(DatasetSpec(name=f"folder:{root}"))
    assert problem is not None
    assert problem.endswith("pip install 'transfer-bench[audio]'.")
    with pytest.raises(DatasetError, match=extra):
        open_clip(data)
    with pytest.raises(BackboneError, match=extra):
        resample(Clip(tone(440, 0.1), 8_000), RATE)
