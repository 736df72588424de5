"""Nights that must not pass, made for real: what was done, the exit code and the verdict of each.

Run: ``python -m benchmarks.red_nights`` from the repository, two to five minutes. Every night is
the real command line on a tiny backbone of timm and on raw pixels; nothing is simulated but the
other machine, whose name is written into a copy of the baseline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_PATHS = (_ROOT, _ROOT / "tests" / "plugins" / "drag")
_PIXELS = "drag/pixels"
_NET = "{name: timm/test_efficientnet, checkpoint: weights.safetensors}"
_SUITE = """
name: nightly
backbones: [{backbones}]
datasets: [digits]
strategies: [linear_probe]
image_size: {image_size}
numerics: fp32
limits: {{profile_time: 1.5s}}
"""
# A pass that mostly sleeps is as fast on a busy machine, so that speed is judged where it is meant.
_USUAL_SECONDS, _SLOW_SECONDS = "0.05", "0.25"
_LEAK_MIB = "8"
_MIN_EFFECT = "throughput=50%,latency=90%,memory=30%"


@dataclass(frozen=True)
class Night:
    """What a night gave.

    Attributes:
        code: Exit code of the command.
        rows: Of its JSON, red ones first.
        output: Of the terminal, both streams.
        folder: Where its files are.
    """

    code: int
    rows: tuple[Mapping[str, Any], ...]
    output: str
    folder: Path

    def told(self, verdict: str) -> list[Mapping[str, Any]]:
        """Return the rows of a verdict."""
        return [row for row in self.rows if row["verdict"] == verdict]


class Desk:
    """A project folder with weights, a suite, a store and a baseline `main` of one real run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reset()
        for words in (["run", "nightly.yaml"], ["baseline", "save", "main", "--from", "nightly"]):
            done = self.bench(*words)
            if done.returncode:
                raise RuntimeError(f"bench {' '.join(words)}: {done.stdout}{done.stderr}")

    def reset(self) -> None:
        """Put back the weights and the suite that the baseline was measured with."""
        self.write_weights(noise=0.0)
        self.write_suite()

    def write_suite(self, *backbones: str, image_size: int = 32) -> None:
        """Write the suite file, of both backbones where none is named."""
        names = ", ".join(backbones or (_NET, _PIXELS))
        text = _SUITE.format(backbones=names, image_size=image_size)
        (self.folder / "nightly.yaml").write_text(text)

    def write_weights(self, *, noise: float) -> None:
        """Write the checkpoint, every tensor with noise of so many of its standard deviations."""
        import timm
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        state = timm.create_model("test_efficientnet", pretrained=False).state_dict()
        for name, tensor in state.items():
            if tensor.is_floating_point() and noise:
                spread = tensor.std() if tensor.numel() > 1 else torch.tensor(1.0)
                state[name] = tensor + noise * spread * torch.randn_like(tensor)
        save_file(state, self.folder / "weights.safetensors")

    def bench(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in the folder."""
        own = {
            "PYTHONPATH": os.pathsep.join(map(str, _PATHS)),
            "BENCH_CACHE": str(self.folder / "cache"),
            "BENCH_STORE": str(self.folder / "results" / "bench.db"),
            "DRAG_SECONDS": _USUAL_SECONDS,
        }
        return subprocess.run(
            [sys.executable, "-m", "bench", *words],
            cwd=self.folder,
            env={**os.environ, **own, **environ},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    def judge(self, **environ: str) -> Night:
        """Measure the suite anew and judge it, as a nightly job does."""
        words = ["run", "nightly.yaml", "--against", "main", "--min-effect", _MIN_EFFECT]
        return self._night(self.bench(*words, **environ), self.folder / "report" / "nightly")

    def compare(self, baseline: str, candidate: str) -> Night:
        """Judge one baseline by another, measuring nothing."""
        folder = self.folder / "compared"
        done = self.bench(
            "compare", baseline, candidate, "--report", str(folder),
            "--json", str(folder / "nightly" / "gate.json"),
            "--markdown", str(folder / "nightly" / "gate.md"),
        )  # fmt: skip
        return self._night(done, folder / "nightly")

    def _night(self, done: subprocess.CompletedProcess[str], folder: Path) -> Night:
        output = done.stdout + done.stderr
        path = folder / "gate.json"
        if not path.exists():
            raise RuntimeError(f"the night was not judged: {output}")
        rows = json.loads(path.read_text())["rows"]
        path.unlink()
        return Night(done.returncode, tuple(rows), output, folder)


def replaced_weights(desk: Desk) -> Night:
    """Put perturbed weights into the file that the suite names."""
    desk.write_weights(noise=3.0)
    return desk.judge()


def slow_and_leaking(desk: Desk) -> Night:
    """Let every forward pass of one backbone sleep longer and keep memory under the same key."""
    return desk.judge(DRAG_SECONDS=_SLOW_SECONDS, DRAG_MIB=_LEAK_MIB)


def missing_cell(desk: Desk) -> Night:
    """Take a backbone out of the suite."""
    desk.write_suite(_PIXELS)
    return desk.judge()


def failed_cell(desk: Desk) -> Night:
    """Cut the file of weights off in the middle."""
    path = desk.folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return desk.judge()


def other_hardware(desk: Desk) -> Night:
    """Compare with the baseline of another class of device."""
    folder = desk.folder / "results" / "baselines"
    value = json.loads((folder / "main.json").read_text())
    for part in value["shared"]:
        if "device_class" in part:
            part["device_class"] = "cuda:Another GPU"
    (folder / "elsewhere.json").write_text(json.dumps(value))
    return desk.compare("elsewhere", "main")


def changed_suite(desk: Desk) -> Night:
    """Ask for another size of images."""
    desk.write_suite(image_size=24)
    return desk.judge()


@dataclass(frozen=True)
class Case:
    """What is done to a project, and what its night must say.

    Attributes:
        code: Exit code.
        verdict: Of at least one row.
    """

    make: Callable[[Desk], Night]
    code: int
    verdict: str
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.make.__name__)


CASES = (
    Case(replaced_weights, 1, "regressed"),
    Case(slow_and_leaking, 1, "regressed"),
    Case(missing_cell, 3, "missing"),
    Case(failed_cell, 3, "failed"),
    Case(changed_suite, 4, "not_comparable"),
    Case(other_hardware, 4, "not_comparable"),
)


def main() -> int:
    """Make every night, print what it said, and return how many said something else."""
    num_wrong = 0
    with tempfile.TemporaryDirectory() as name:
        desk = Desk(Path(name))
        for case in CASES:
            night = case.make(desk)
            desk.reset()
            found = night.told(case.verdict)
            wrong = night.code != case.code or not found
            num_wrong += wrong
            print(f"{case.name}: exit code {night.code}{' WRONG' if wrong else ''}")
            for row in found[:4]:
                changes = [f"{c['name']} {c['first']} -> {c['second']}" for c in row["changes"]]
                print(f"  {row['verdict']} {row['cell']} {row['metric'] or ''}")
                print(f"    {'; '.join(row['reasons'])}; changed: {', '.join(changes) or '-'}")
    return num_wrong


if __name__ == "__main__":
    sys.exit(main())
