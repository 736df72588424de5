"""The record: everything measured for a cell, versioned; knows no database and no table.

A value that was not measured is None, never 0. Units are in the names, base units throughout.
What tables read of it is in `summary`, in the base classes of those here.
Changing a field needs a new `SCHEMA_VERSION`, a migration in `store` and a golden file.
"""

from typing import Literal, TypeAlias

from pydantic import Field

from bench.spec import Frozen
from bench.summary import (
    SCHEMA_VERSION,
    DataSummary,
    Effective,
    Environment,
    EpochSummary,
    Failure,
    InferSummary,
    Latency,
    Memory,
    NumericsPlan,
    Outcomes,
    RecordSummary,
    ScoreSummary,
    SelectionSummary,
    Status,
    TrainSummary,
)

__all__ = [
    "SCHEMA_VERSION",
    "ArtifactUse",
    "AudioPreprocessing",
    "BackboneInfo",
    "ClassScore",
    "DataInfo",
    "Effective",
    "Environment",
    "EpochPoint",
    "Failure",
    "GridPoint",
    "InferProfile",
    "InputPreprocessing",
    "Latency",
    "Memory",
    "NumericsPlan",
    "Outcomes",
    "PredictionSet",
    "Preprocessing",
    "Progress",
    "Recalled",
    "Record",
    "RefitInfo",
    "Scores",
    "Selection",
    "SplitInfo",
    "Status",
    "TextPreprocessing",
    "TrainProfile",
]


class ClassScore(Frozen):
    """Scores of one class, in [0, 1]; support is its number of examples."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class Scores(ScoreSummary):
    """Quality on one split, whole and by class."""

    per_class: tuple[ClassScore, ...]


class GridPoint(Frozen):
    """One setting that was tried and its score on val; the score is None when it diverged."""

    setting: dict[str, float | int | str | bool | None]
    val_accuracy: float | None
    val_loss: float | None
    best_epoch: int | None = None
    note: str | None = None


class Selection(SelectionSummary):
    """What was chosen on val, from what: `chosen` is an index into `points`."""

    points: tuple[GridPoint, ...]


class EpochPoint(EpochSummary):
    """One epoch of the chosen setting."""

    train_loss: float
    learning_rate: float
    val_loss: float | None
    seconds: float


class RefitInfo(Frozen):
    """What was fitted again once everything was chosen: the model that the test split saw.

    Attributes:
        num_examples: Of train and val together.
        ids_digest: Of their ids, in order.
        epochs: That were trained; None for a strategy that takes none.
        curve: Of these epochs, without val.
    """

    num_examples: int
    ids_digest: str
    epochs: int | None = None
    curve: tuple[EpochPoint, ...] = ()


class Preprocessing(Frozen):
    """How an image becomes the input of a backbone.

    The shorter side is resized to ``image_size / crop_fraction``, the centre is cropped, bytes are
    scaled to [0, 1] and normalised per channel.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_fraction: float = Field(default=1.0, gt=0, le=1)


class TextPreprocessing(Frozen):
    """How a text becomes the input of a backbone: tokenised once, cut to what the model takes.

    Attributes:
        max_tokens: Of one text, special tokens included; what is longer is cut at its end.
        pooling: How hidden states become features: ``cls`` is the first token's, ``last`` the last
            one's, ``mean`` that of all tokens; None where the model has no hidden states.
        tokenizer: sha256 of everything that decides how a text becomes tokens.
    """

    max_tokens: int
    pooling: Literal["cls", "mean", "last"] | None
    tokenizer: str


class AudioPreprocessing(Frozen):
    """How a clip becomes the input of a backbone: resampled once, cut, taken to its features.

    Attributes:
        sample_rate: Samples per second that the model was trained on.
        max_seconds: Of one clip; what is longer is cut at its end.
        extractor: sha256 of everything that decides what samples become.
    """

    sample_rate: int
    max_seconds: float
    extractor: str


InputPreprocessing: TypeAlias = Preprocessing | TextPreprocessing | AudioPreprocessing
"""By modality: of an image, of a text, of a clip."""


class BackboneInfo(Frozen):
    """What is known of a loaded backbone.

    Attributes:
        weights_digest: sha256 of the architecture and of every parameter and buffer, in order; of
            that and the plugin's version where a plugin brings the backbone.
        weights_source: Where they came from, for people: a file, a hub id with revision, or random.
        num_parameters: Of the backbone, without head.
        stages: Names in order from input to output.
    """

    name: str
    weights_digest: str
    weights_source: str
    feature_dim: int
    num_parameters: int
    stages: tuple[str, ...]
    licence: str | None = None


class SplitInfo(Frozen):
    """One split: how many examples, per class in the order of the class names, and which.

    Attributes:
        num_truncated: Texts or clips longer than the backbone takes, which were cut; None where no
            length is limited.
    """

    num_examples: int
    class_counts: tuple[int, ...]
    ids_digest: str
    num_truncated: int | None = None


class DataInfo(DataSummary):
    """What is known of the data of a cell.

    Attributes:
        fingerprint: Digest of ids, labels and bytes of every example of the dataset.
        splits: By name: train, val, test. val is absent where the protocol has none.
        corrupt: Names of examples that could not be read, at most 100.
        image_size: Height and width in pixels; None where the examples are no images.
        typical_length: Median length of all examples, as the backbone takes them: tokens of a text.
            Speed and memory are measured at it. None for images.
    """

    fingerprint: str
    class_names: tuple[str, ...]
    splits: dict[str, SplitInfo]
    corrupt: tuple[str, ...] = ()
    image_size: int | None = None
    typical_length: int | None = None


class TrainProfile(TrainSummary):
    """The plain training step with the seconds of every repeat."""

    step_seconds: tuple[float, ...]


class InferProfile(InferSummary):
    """The plain inference pass with the seconds of every repeat."""

    batch_seconds: tuple[float, ...]


class ArtifactUse(Frozen):
    """A shared intermediate that a cell read or made.

    Attributes:
        seconds: What it had cost to make (all of it when built here, the reused share otherwise).
        built: Whether this cell paid for it.
    """

    kind: str
    digest: str
    built: bool
    seconds: float


class PredictionSet(Frozen):
    """Per-example predictions on one split as little-endian blobs; paired tests need no re-run.

    Attributes:
        ids: zlib-compressed JSON list of the example ids.
        labels: int32 true class, shape (N,).
        predicted: int32 most likely class, shape (N,).
        true_probability: float32 probability of the true class, shape (N,).
        top5: int32, shape (N, min(5, K)), most likely first.
    """

    split: Literal["val", "test"]
    num_examples: int
    ids_digest: str
    ids: bytes
    labels: bytes
    predicted: bytes
    true_probability: bytes
    top5: bytes


class Record(RecordSummary):
    """Everything measured for a cell, with its status and environment.

    Attributes:
        refit: Where the strategy was fitted again on train and val: then val scores and
            predictions, selection and curve are of the model that was chosen on val, and test
            scores, predictions, costs and settings in force of the one fitted again.
        seconds: Wall seconds by phase.
        outcomes: Follow from the predictions, so they are in the summary's JSON alone.
        predictions: Kept apart from the record's JSON.
    """

    test: Scores | None = None
    outcomes: Outcomes | None = Field(default=None, exclude=True, repr=False)
    val: Scores | None = None
    selection: Selection | None = None
    curve: tuple[EpochPoint, ...] = ()
    refit: RefitInfo | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    backbone: BackboneInfo | None = None
    preprocessing: InputPreprocessing | None = None
    data: DataInfo | None = None
    train_profile: TrainProfile | None = None
    infer_profile: InferProfile | None = None
    artifacts: tuple[ArtifactUse, ...] = ()
    key_parts: dict[str, str] = Field(default_factory=dict)
    predictions: tuple[PredictionSet, ...] = Field(default=(), exclude=True, repr=False)


class Recalled(Frozen):
    """A child's answer when the run holds an `ok` record of its key: nothing was measured."""

    request_key: str
    key: str


class Progress(Frozen):
    """What a child is doing now, for display only.

    Attributes:
        num_done: Examples of the phase that are done.
        num_total: Of how many.
        item: What is downloaded.
        num_bytes: Of it that are here.
        total_bytes: Of how many, where known.
    """

    phase: str
    epoch: int | None = None
    num_epochs: int | None = None
    grid_point: int | None = None
    num_grid_points: int | None = None
    val_accuracy: float | None = None
    num_done: int | None = None
    num_total: int | None = None
    item: str | None = None
    num_bytes: int | None = None
    total_bytes: int | None = None
