"""What backbones, datasets, strategies and `execute` hand each other; torch in annotations only.

Sources and strategies are importable without torch, since the parent process asks them for names,
specs and files; they import torch inside `load` and `adapt`.
"""

from bench.interfaces.backbone import (
    Backbone,
    BackboneSource,
    Stage,
)
from bench.interfaces.dataset import (
    DatasetSource,
    Examples,
    Pool,
    RawDataset,
    SequencePool,
    Split,
)
from bench.interfaces.files import (
    Emit,
    Fetching,
    HubFiles,
    Located,
    Missing,
    Origin,
)
from bench.interfaces.inputs import (
    TOKEN_PADDING,
    Clip,
    EncodedRow,
    Modality,
    RawInput,
    RowEncoder,
)
from bench.interfaces.strategy import (
    Adapted,
    Refit,
    Runtime,
    Strategy,
    Task,
)

__all__ = [
    "TOKEN_PADDING",
    "Adapted",
    "Backbone",
    "BackboneSource",
    "Clip",
    "DatasetSource",
    "Emit",
    "EncodedRow",
    "Examples",
    "Fetching",
    "HubFiles",
    "Located",
    "Missing",
    "Modality",
    "Origin",
    "Pool",
    "RawDataset",
    "RawInput",
    "Refit",
    "RowEncoder",
    "Runtime",
    "SequencePool",
    "Split",
    "Stage",
    "Strategy",
    "Task",
]
