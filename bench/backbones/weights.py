"""State dicts in and out of modules, completely or not at all; knows no library of models."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BackboneError, WeightsMismatchError

_SHOWN = 10
_WRAPPERS = ("state_dict", "model")
_MISSING = re.compile(r"Missing key\(s\) in state_dict: (.*?)\. ?$", re.M)
_UNEXPECTED = re.compile(r"Unexpected key\(s\) in state_dict: (.*?)\. ?$", re.M)
_WRONG_SHAPE = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[(.*?)\]\)"
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file by name.

    Pickles are read with ``weights_only``: no code in them runs. A mapping under ``state_dict`` or
    ``model`` is unwrapped, and so is the prefix ``module.`` when every tensor has it.

    Raises:
        BackboneError: Unreadable, or not a mapping of names to tensors.
    """
    value: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            value = load_file(path)
        else:
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # safetensors and pickle raise their own, undocumented classes for a damaged file.
        if isinstance(error, pickle.UnpicklingError):
            raise BackboneError(
                f"{path} is not a plain checkpoint: it would run code when read, or it is damaged."
                " Save it again as safetensors."
            ) from error
        raise BackboneError(f"cannot read weights from {path}: {error}.") from error
    for key in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    if not isinstance(value, Mapping) or not value:
        raise BackboneError(f"{path} holds no state dict but {type(value).__name__}.")
    strangers = [str(name) for name, tensor in value.items() if not isinstance(tensor, Tensor)]
    if strangers:
        raise BackboneError(
            f"{path} holds entries that are not tensors: {_some(strangers)}. "
            f"Known wrappers: {', '.join(_WRAPPERS)}."
        )
    wrapped = all(name.startswith("module.") for name in value)
    return {name.removeprefix("module.") if wrapped else name: value[name] for name in value}


def load_complete(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into a module; nothing may be missing, left over or of another shape.

    Counters of batch norms, which older files lack and which no output depends on, may be absent.

    Args:
        module: Receives the tensors.
        state: By name, as in the module.
        source: Names the weights in the message.

    Raises:
        WeightsMismatchError: Some tensor does not fit.
    """
    own = module.state_dict()
    missing = [
        name for name in own if name not in state and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in own]
    wrong = [
        (name, tuple(state[name].shape), tuple(own[name].shape))
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or wrong:
        raise mismatch_error(source, missing=missing, unexpected=unexpected, wrong_shape=wrong)
    module.load_state_dict(dict(state), strict=False)


def mismatch_error(
    source: str,
    *,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    wrong_shape: Sequence[tuple[str, object, object]] = (),
) -> WeightsMismatchError:
    """Return the error that names the tensors that do not fit, the first ten of each kind.

    Args:
        source: Names the weights.
        missing: In the model but not in the weights.
        unexpected: In the weights but not in the model.
        wrong_shape: Name, shape in the weights, shape in the model.
    """
    shapes = [f"{name} {given} for {own}" for name, given, own in wrong_shape]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", shapes))
    parts = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names]
    return WeightsMismatchError(
        f"{source}: the weights do not fit the model. {'; '.join(parts)}. "
        "Check that the file belongs to this architecture."
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def explain_strict_failure(source: str, error: RuntimeError) -> BackboneError:
    """Return our error for one of torch's from a strict load, tensors named the same way.

    Source: message of ``torch.nn.Module.load_state_dict``, PyTorch 2.
    """
    text = str(error)
    wrong = [(name, f"({given})", f"({own})") for name, given, own in _WRONG_SHAPE.findall(text)]
    missing, unexpected = (_quoted(pattern.search(text)) for pattern in (_MISSING, _UNEXPECTED))
    if wrong or missing or unexpected:
        return mismatch_error(source, missing=missing, unexpected=unexpected, wrong_shape=wrong)
    return BackboneError(f"{source}: cannot be built: {text}")


def _quoted(match: re.Match[str] | None) -> list[str]:
    return re.findall(r'"([^"]+)"', match.group(1)) if match else []


@contextmanager
def recorded_loads() -> Iterator[list[str]]:
    """Collect the names of tensors that any module's ``load_state_dict`` left as they were.

    timm loads some architectures leniently and only logs what was missing; this sees it. None in
    the list at the end and at least one load are what a caller must check; a load adds ``""``.
    """
    names: list[str] = []
    original = nn.Module.load_state_dict

    def record(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        names.extend(["", *result.missing_keys])
        return result

    nn.Module.load_state_dict = record  # type: ignore[method-assign]
    try:
        yield names
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside the block and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def weights_digest(
    module: nn.Module, *, architecture: str, configuration: Mapping[str, Any] | None = None
) -> str:
    """Return sha256 over the architecture and every parameter and buffer, in order.

    Equal tensors in another architecture are another backbone: activation, padding or stride can
    differ where no shape does. So its name counts, its modules as they print themselves, and its
    configuration, for what no module prints (the number of heads, a mask of the future).

    Args:
        module: Whose tensors' names, dtypes, shapes and bytes count.
        architecture: Name of what computes with them.
        configuration: Settings that decide what it computes; None where it has none of its own.
    """
    described = f"{architecture}\n{_ADDRESS.sub('', repr(module))}\n"
    sha = hashlib.sha256(described.encode())
    if configuration:
        sha.update(f"{json.dumps(configuration, sort_keys=True, default=str)}\n".encode())
    for kind, tensors in (("p", module.named_parameters()), ("b", module.named_buffers())):
        for name, tensor in tensors:
            sha.update(f"{kind} {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()
