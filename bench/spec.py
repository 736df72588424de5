"""Suite, cell and strategy as frozen models, also the JSON Schema of the YAML; knows no files."""

from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from bench.notation import Seconds, Seeds

T = TypeVar("T")
Grid = Annotated[tuple[T, ...], Field(min_length=1)]
"""Values tried inside one cell, chosen on val; such a field is typed ``T | Grid[T]``."""

Refit = Literal["train+val", "none"]
ProtocolName = Literal["vtab-1k"]

_ANY_DATASET = ("name", "image_size", "train_examples", "shots", "max_corrupt_fraction")
_PROTOCOL = ("refit", "protocol", "folds", "splits")
_COLUMN_KEYS = {"label_column": "label"}
_OF_SEQUENCES = ("max_tokens", "pooling", "max_seconds")
_OFF = {"mixup": 0.0, "cutmix": 0.0, "class_weights": "none"}
"""Fields of training that came later, with the values under which they do nothing."""


def grid_values(field: T | tuple[T, ...]) -> tuple[T, ...]:
    """Return the values of a field typed ``T | Grid[T]``, one or several."""
    return field if isinstance(field, tuple) else (field,)


class Frozen(BaseModel):
    """A value: immutable, comparable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Named(Frozen):
    """A mapping with a name, for which the bare name may stand; numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class Numerics(StrEnum):
    """The policy asked for; `auto` measures and keeps the fastest that agrees with fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class BackboneSpec(_Named):
    """A pretrained feature extractor as the suite names it.

    Attributes:
        name: ``source/model``: ``timm/resnet50.a1_in1k``, ``torchvision/resnet50@IMAGENET1K_V2``.
        weights: ``random`` is the control that is trained from scratch, always labelled as such.
        checkpoint: A local file of weights to load instead of the source's own.
        revision: The hub revision (branch, tag or commit) to load.
        trust_remote_code: Allow code from the hub repository to run.
        mean: Per-channel mean that replaces the backbone's own; one number stands for all three.
        std: Likewise the standard deviation.
        max_tokens: Of one text, special tokens included; longer ones are cut. None is what the
            model takes, 256 at most. For text backbones.
        pooling: How a text model's hidden states become features; None is what fits the model.
        max_seconds: Of one clip; longer ones are cut at their end. None is what the model takes, or
            10 where it has no limit. For audio backbones.
    """

    name: str
    weights: Literal["pretrained", "random"] = "pretrained"
    checkpoint: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    mean: float | tuple[float, float, float] | None = None
    std: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    max_tokens: int | None = Field(default=None, ge=4, le=100_000)
    pooling: Literal["cls", "mean", "last"] | None = None
    max_seconds: float | None = Field(default=None, gt=0, le=3600)

    @model_serializer(mode="wrap")
    def _without_what_is_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave fields of texts and clips out where unset: keys from before them stay."""
        return {key: it for key, it in handler(self).items() if key not in _OF_SEQUENCES or it}

    @property
    def label(self) -> str:
        """The name in tables: control and checkpoint are part of it."""
        if self.weights == "random":
            return f"{self.name} (random)"
        if self.checkpoint:
            return f"{self.name} ({self.checkpoint.rsplit('/', 1)[-1]})"
        return self.name if self.revision is None else f"{self.name} ({self.revision})"


def _selector(description: str, alias: str | None = None) -> Any:
    """Return a field that is absent unless set."""
    return Field(default=None, description=description, alias=alias)


class DatasetSpec(_Named):
    """Labelled examples as the suite names them.

    Attributes:
        name: ``digits``, ``torchvision/Flowers102``, ``folder:~/photos``, …
        image_size: Height and width in pixels; wins over the suite's.
        train_examples: Train and val together are cut to this many (80 : 20), stratified.
        shots: Train examples per class; a list expands into cells.
        max_corrupt_fraction: Share of unreadable examples above which the dataset is refused.
        refit: ``train+val``: once all is chosen on val, fit again on train and val together, with
            what was chosen; ``none`` does not where the suite does. See `docs/protocols.md`.
        protocol: ``vtab-1k``: 1,000 examples of train and val (800 : 200), chosen on val, fitted
            again on all 1,000, tested on the whole test split.
        folds: Cross-validation: so many cells per seed, each example in the test split of one.
        splits: A file that `bench splits export` wrote, or one like it: which examples are train,
            val and test.

    The other fields, its selectors, say where in a table or on the hub the examples are; a source
    takes those that it lists. `label_column` is ``label`` in the suite and in every dump.
    """

    name: str
    image_size: int | None = Field(default=None, ge=8, le=4096)
    train_examples: int | None = Field(default=None, ge=2)
    shots: PositiveInt | Grid[PositiveInt] | None = None
    max_corrupt_fraction: float = Field(default=0.01, ge=0, le=1)
    refit: Refit | None = None
    protocol: ProtocolName | None = None
    folds: int | None = Field(default=None, ge=2, le=100)
    splits: str | None = Field(default=None, min_length=1)
    config: str | None = _selector("Configuration of a dataset on the hub.")
    text: str | None = _selector("Column that holds the texts.")
    image: str | None = _selector("Column of images: paths relative to the table, or bytes.")
    audio: str | None = _selector("Column of sound: paths relative to the table, or bytes.")
    label_column: str | None = _selector("Column that holds the class names.", alias="label")
    split: str | None = _selector("Column that says train, val or test for each row.")
    val: str | None = _selector("File of val beside the table, or name of a split on the hub.")
    test: str | None = _selector("File of test beside the table, or name of a split on the hub.")
    revision: str | None = _selector("Branch, tag or commit of a dataset on the hub.")
    streaming: PositiveInt | None = _selector("Stream only this many first examples of a split.")

    @model_serializer(mode="wrap")
    def _without_what_is_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set: keys and labels of cells from before it stay."""
        values = {_COLUMN_KEYS.get(key, key): value for key, value in handler(self).items()}
        return {
            key: held for key, held in values.items() if key in _ANY_DATASET or held is not None
        }

    @property
    def selectors(self) -> dict[str, Any]:
        """What is set of the fields that say where the examples are, by key of the suite."""
        others = (*_ANY_DATASET, *_PROTOCOL)
        return {key: value for key, value in self.model_dump().items() if key not in others}

    @property
    def label(self) -> str:
        """The name in tables; what makes another task of the same name is part of it."""
        named = self.selectors
        parts = [f"first {named[key]}" if key == "streaming" else named[key] for key in named]
        counts = (("shots", self.shots), ("folds", self.folds))
        parts += [f"{count} {word}" for word, count in counts if count is not None]
        return f"{self.name} ({', '.join(parts)})" if parts else self.name

    def per_shots(self, default: int | tuple[int, ...] | None) -> tuple[Self, ...]:
        """Return one dataset per number of shots; where it sets none, of the suite's default."""
        shots = default if self.shots is None else self.shots
        counts = shots if isinstance(shots, tuple) else (shots,)
        return tuple(self.model_copy(update={"shots": count}) for count in counts)


class StrategySpec(_Named):
    """How a backbone is adapted; each strategy's own file holds its model with its fields.

    This base keeps unknown fields, so that a record of a strategy no longer installed can be read.
    A strategy's own model forbids them. A tuple in a field is a grid inside the cell.

    Attributes:
        from_random: Whether it trains from random weights: its cells have no others.
    """

    from_random: ClassVar[bool] = False

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    def amendment(self) -> str:
        """Return what changed in the meaning of these very settings since the strategy's version.

        Part of a cell's key, so that a change to one option sets no other cell apart; empty where
        nothing did.
        """
        return ""

    def only_for_images(self) -> tuple[str, ...]:
        """Return the fields that are on and that mean nothing for texts and clips."""
        return ()

    def grid_points(self) -> tuple[Self, ...]:
        """Return one spec per point of the grid, in the order of the fields."""
        values = self.model_dump()
        grids = {key: value for key, value in values.items() if isinstance(value, tuple)}
        return tuple(
            self.model_copy(update=dict(zip(grids, point, strict=True)))
            for point in product(*grids.values())
        )


class TrainingSpec(StrategySpec):
    """Fields shared by every strategy that takes gradient steps.

    Attributes:
        epochs: Passes over train; the best by val is kept.
        batch_size: Examples per optimiser step.
        learning_rate: Peak rate.
        weight_decay: Decoupled for AdamW, L2 for SGD; not applied to biases and norms.
        momentum: For SGD.
        schedule: After the warm-up: cosine to zero, or constant.
        warmup_fraction: Share of all steps over which the rate rises from zero.
        label_smoothing: Mass moved from the true class to all classes.
        clip_norm: Largest global gradient norm; None clips nothing.
        augmentation: Batched and per sample, on train only.
        mixup: Alpha of the Beta distribution from which the share is drawn in which two images of
            a batch, and their labels, are blended; 0 is off. Source: Zhang et al., 2018.
        cutmix: Alpha for cutting a rectangle out of one image and filling it from another, labels
            mixed by area; 0 is off. With `mixup` on too, each batch takes one of the two at even
            odds. Source: Yun et al., 2019.
        head_init: ``zeros``, or ``probe``: a linear probe's solution on the same features, not
            standardised.
        class_weights: ``balanced`` weighs the loss of an example by N / (k * n_c), for n_c of N
            train examples of its class and k classes: each class counts the same. What val chooses
            by is not weighted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=5, ge=1, le=10_000)
    batch_size: PositiveInt | Grid[PositiveInt] = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 1e-3
    weight_decay: NonNegativeFloat | Grid[NonNegativeFloat] = 0.01
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(default=1.0, gt=0)
    augmentation: Literal["none", "flip_crop", "strong"] = "none"
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    head_init: Literal["zeros", "probe"] = "zeros"
    class_weights: Literal["none", "balanced"] = "none"

    def amendment(self) -> str:
        """Return that the probe which training goes on from is no longer standardised."""
        return " plain probe" if self.head_init == "probe" else ""

    def only_for_images(self) -> tuple[str, ...]:
        """Return which of augmentation and mixing are on."""
        named = ("augmentation", "mixup", "cutmix")
        return tuple(name for name in named if getattr(self, name) not in ("none", 0))

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is off and came later: keys and labels of cells from before it stay."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if _OFF.get(key) != value}


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
        image_size: Height and width in pixels; None is the backbone's own.
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
