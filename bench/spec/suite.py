"""What to sweep and one cell of it, fully resolved; knows no file and no source."""

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self

from pydantic import (
    ByteSize,
    Field,
    PositiveInt,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from bench.notation import Seconds, Seeds
from bench.spec.axes import BackboneSpec, DatasetSpec, ProtocolName, Refit
from bench.spec.strategy import StrategySpec
from bench.spec.value import Frozen, Grid


class Numerics(StrEnum):
    """The policy asked for; `auto` measures and keeps the fastest that agrees with fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def _fits(pattern: str, *texts: str) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts)


class Exclude(Frozen):
    """A glob per axis; a cell that matches all those given is left out of the sweep."""

    backbone: str = "*"
    dataset: str = "*"
    strategy: str = "*"

    @model_validator(mode="after")
    def _not_everything(self) -> Self:
        if (self.backbone, self.dataset, self.strategy) == ("*", "*", "*"):
            raise ValueError("an empty exclude would leave out every cell")
        return self

    def matches(self, backbone: BackboneSpec, dataset: DatasetSpec, strategy: StrategySpec) -> bool:
        """Return whether every glob matches its axis, by name or by label; case counts."""
        return (
            _fits(self.backbone, backbone.name, backbone.label)
            and _fits(self.dataset, dataset.name, dataset.label)
            and _fits(self.strategy, strategy.name)
        )


class Limits(Frozen):
    """What a sweep may cost; none of it changes a number that is measured.

    Attributes:
        cell_timeout: Wall seconds of one cell, after which its status is ``timeout``.
        total_time: Wall seconds of the sweep, after which no cell is started.
        host_memory: Bytes a cell may hold above its floor at start; above, its status is ``oom``.
        profile_time: Wall seconds spent measuring speed and memory, per pass.
    """

    cell_timeout: Seconds = 7200.0
    total_time: Seconds | None = None
    host_memory: ByteSize | None = None
    profile_time: Seconds = 3.0


class Suite(Frozen):
    """What to sweep and under which protocol: the YAML file, resolved.

    Attributes:
        split_seed: Fixes the test split, the same for every seed.
        seeds: Each draws val, shots, head initialisation, data order and augmentation: ten draws
            of few shots are ``0..9``.
        refit: Of every dataset that says nothing else, see `DatasetSpec`.
        protocol: Likewise.
        compile: Also try passes compiled by `torch.compile`; kept only where more than 5% faster.
    """

    TITLE: ClassVar[str] = "bench suite"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    backbones: tuple[BackboneSpec, ...] = Field(min_length=1)
    datasets: tuple[DatasetSpec, ...] = Field(min_length=1)
    strategies: tuple[SerializeAsAny[StrategySpec], ...] = Field(min_length=1)
    image_size: int | None = Field(default=None, ge=8, le=4096)
    split_seed: int = Field(default=0, ge=0)
    seeds: Seeds = Field(default=(0,), min_length=1)
    shots: PositiveInt | Grid[PositiveInt] | None = None
    refit: Refit | None = None
    protocol: ProtocolName | None = None
    numerics: Numerics = Numerics.AUTO
    compile: bool = False
    exclude: tuple[Exclude, ...] = ()
    limits: Limits = Limits()


class Cell(Frozen):
    """One backbone x dataset x strategy x seed, fully resolved: all that a child needs to know.

    Attributes:
        image_size: Height and width in pixels; None is the backbone's own. The dataset's own is
            kept here alone.
        compile: Whether compiled passes are tried too.
        fold: Which of the dataset's folds is tested on, from 0; None where it has none.
    """

    suite: str
    backbone: BackboneSpec
    dataset: DatasetSpec
    strategy: SerializeAsAny[StrategySpec]
    seed: int = 0
    split_seed: int = 0
    image_size: int | None = None
    numerics: Numerics = Numerics.AUTO
    compile: bool = False
    fold: int | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _one_size(cls, data: Any) -> Any:
        """Keep the dataset's own size as the cell's: one size given in two places is one cell."""
        if not isinstance(data, dict):
            return data
        dataset = data.get("dataset")
        if isinstance(dataset, DatasetSpec) and dataset.image_size is not None:
            without: Any = dataset.model_copy(update={"image_size": None})
            return {**data, "dataset": without, "image_size": dataset.image_size}
        if isinstance(dataset, dict) and dataset.get("image_size") is not None:
            without = {key: value for key, value in dataset.items() if key != "image_size"}
            return {**data, "dataset": without, "image_size": dataset["image_size"]}
        return data

    @model_serializer(mode="wrap")
    def _without_no_fold(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the fold out where there is none: keys of cells from before folds stay."""
        return {key: v for key, v in handler(self).items() if key != "fold" or v is not None}

    @property
    def draw(self) -> str:
        """What the cells of one row differ in: the seed, and the fold where there are folds."""
        fold = "" if self.fold is None else f" · fold {self.fold}"
        return f"seed {self.seed}{fold}"

    @property
    def label(self) -> str:
        """One line for progress and messages."""
        parts = (self.backbone.label, self.dataset.label, self.strategy.name, self.draw)
        return " · ".join(parts)

    def canonical(self) -> dict[str, Any]:
        """Return the JSON value of all that can change the numbers; the suite's name cannot.

        A cell that does not compile is what it was before cells could.
        """
        left_out = {"suite"} if self.compile else {"suite", "compile"}
        return self.model_dump(mode="json", exclude=left_out)


class Job(Frozen):
    """A cell with what its child needs to run it; none of it can change what is measured.

    Attributes:
        run_id: The run in the store that the record belongs to.
        run_scope: Names the run among all stores: scope of features, prefix activations, profiles.
        request_key: The parent's cheap key, see `Record`.
        known_keys: Keys the run already holds as ``ok``: the child stops when it meets its own.
        device: ``cpu`` or ``cuda:N``.
        num_threads: CPU threads of the child.
        cache_dir: Root of the artifact cache.
        project_dir: Folder the suite lives in, whose git revision is recorded.
        plans: ``forward`` or ``train`` -> JSON of the numerics plan to run that pass by, see
            `bench.record.NumericsPlan`.
    """

    cell: Cell
    run_id: int
    run_scope: str
    request_key: str
    known_keys: frozenset[str] = frozenset()
    device: str = "cpu"
    num_threads: int = 1
    cache_dir: str = ""
    project_dir: str = "."
    plans: dict[str, str] = Field(default_factory=dict)
    limits: Limits = Limits()
