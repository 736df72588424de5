"""A backbone and a dataset as a suite names them; knows no source, no strategy and no suite."""

from typing import Any, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from bench.spec.value import Grid, Named

Refit = Literal["train+val", "none"]
ProtocolName = Literal["vtab-1k"]

_ANY_DATASET = ("name", "image_size", "train_examples", "shots", "max_corrupt_fraction")
_PROTOCOL = ("refit", "protocol", "folds", "splits")
_COLUMN_KEYS = {"label_column": "label"}
_OF_SEQUENCES = ("max_tokens", "pooling", "max_seconds")


class BackboneSpec(Named):
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


class DatasetSpec(Named):
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
