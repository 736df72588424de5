"""Small real plugins for tests: backbones of a few names, a dataset source, two strategies."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import PositiveFloat

from bench import registry, survey
from bench.interfaces import Located, Missing
from bench.spec import BackboneSpec, DatasetSpec, Grid, StrategySpec

TINY_NAMES = (
    "tiny/mobilenetv4_conv.e500_in1k",
    "tiny/mobilenetv4_hybrid.e200_in1k",
    "tiny/resnet18.a1_in1k",
    "tiny/resnet50.a1_in1k",
    "tiny/resnet50.a2_in1k",
)


class TinyBackbones:
    """``tiny/…``: names that never change; `resnet18` is on disk, the others are not."""

    prefix: ClassVar[str] = "tiny"
    folder: ClassVar[Path] = Path("/nowhere")
    located: ClassVar[int] = 0

    def names(self) -> Sequence[str]:
        return TINY_NAMES

    def check(self, spec: BackboneSpec) -> str | None:
        if spec.checkpoint and not Path(spec.checkpoint).exists():
            return f"{spec.name}: checkpoint {spec.checkpoint} does not exist"
        return None

    def locate(self, spec: BackboneSpec) -> Located:
        type(self).located += 1
        if "resnet18" in spec.name:
            return Located(files=(self.folder / "resnet18.bin",), packages=("pydantic",))
        gone = "hybrid" not in spec.name
        what = Missing(f"weights of {spec.name}", "hf download it", 98 << 20, downloadable=gone)
        return Located(missing=(what,))


class TinyDatasets:
    """``tiny/…`` data: a place, so its names cannot be listed."""

    prefix: ClassVar[str] = "tiny"

    def names(self) -> Sequence[str]:
        return ()

    def check(self, spec: DatasetSpec) -> str | None:
        return None

    def locate(self, spec: DatasetSpec) -> Located:
        return Located()


class DialSpec(StrategySpec):
    """Fields of `dial`."""

    model_config = StrategySpec.model_config | {"extra": "forbid"}

    level: PositiveFloat | Grid[PositiveFloat] = 1.0
    steps: int = 1


class Dial:
    """A strategy that trains nothing and chooses its level on val."""

    Spec: ClassVar[type[StrategySpec]] = DialSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "turns a dial"
    trains_backbone: ClassVar[bool] = False

    def needs_val(self, spec: StrategySpec) -> bool:
        return True


class DialTwo(Dial):
    """The next version of it."""

    version: ClassVar[int] = 2


class Turn(Dial):
    """The same, of the whole backbone."""

    summary: ClassVar[str] = "turns the backbone"
    trains_backbone: ClassVar[bool] = True


@contextmanager
def registered_plugins(extra: dict[str, dict[str, str]] | None = None) -> Iterator[None]:
    """Make the plugins above, and others as kind -> name -> target, part of the registry."""
    added = {
        "backbones": {"tiny": "tests.suite_plugins:TinyBackbones"},
        "datasets": {"tiny": "tests.suite_plugins:TinyDatasets"},
        "strategies": {"dial": "tests.suite_plugins:Dial", "turn": "tests.suite_plugins:Turn"},
    }
    for kind, entries in (extra or {}).items():
        added[kind] |= entries
    tables = {
        "backbones": registry.BACKBONES,
        "datasets": registry.DATASETS,
        "strategies": registry.STRATEGIES,
    }
    saved = {kind: dict(table) for kind, table in tables.items()}
    try:
        for kind, table in tables.items():
            table.update(added[kind])
        _forget()
        yield
    finally:
        for kind, table in tables.items():
            table.clear()
            table.update(saved[kind])
        _forget()


def _forget() -> None:
    registry.registered.cache_clear()
    registry._load.cache_clear()
    survey.forget_files()
