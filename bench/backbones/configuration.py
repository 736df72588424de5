"""What a model's own configuration says of its function; knows no weights and no library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

_NOT_OF_THE_FUNCTION = frozenset(
    {"architectures", "auto_map", "finetuning_task", "name_or_path", "processor_class"}
    | {"tokenizer_class", "transformers_version"}  # Where it came from, and what it is used with.
    | {"dtype", "torch_dtype"}  # Of the file; the tensors say what they are.
    | {"id2label", "label2id", "num_labels", "problem_type", "task_specific_params"}  # Of a head.
    | {"initializer_range", "gradient_checkpointing", "return_dict", "torchscript", "use_cache"}
    | {"output_attentions", "output_hidden_states"}
)


def find_configuration(module: nn.Module) -> dict[str, Any] | None:
    """Return what the configuration of a module, or of the first in it with one, says of features.

    Names, paths, versions, labels and what else changes no feature are left out, at every depth.

    Args:
        module: Whose modules may have a ``config`` of transformers.
    """
    configs = (getattr(part, "config", None) for part in module.modules())
    config = next((config for config in configs if hasattr(config, "to_diff_dict")), None)
    return None if config is None else _function_of(config.to_diff_dict())


def _function_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _function_of(value) if isinstance(value, Mapping) else value
        for name, value in ((str(key), value) for key, value in settings.items())
        if name not in _NOT_OF_THE_FUNCTION and not name.startswith("_")
    }
