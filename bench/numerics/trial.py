"""One pass run under one candidate after another, and how far outcomes differ; chooses nothing."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.meters import Clock, synchronize
from bench.numerics.applied import Candidate, Precision, apply_plan, autocast, prepare_inputs
from bench.numerics.compiling import CompiledPass, Pass
from bench.numerics.folding import fold_batch_norms
from bench.record import NumericsPlan

MIN_FEATURE_COSINE = 0.999
MAX_RELATIVE_ERROR = 2e-2
MAX_FP32_ERROR = 1e-4
MIN_GRADIENT_COSINE = 0.98
MIN_FP32_COSINE = 0.9

_LOSS_SCALE = 1024.0


class Trial(ABC):
    """A pass on a private copy of a module, run under one candidate after another."""

    name: str

    def __init__(
        self, module: nn.Module, inputs: Tensor, device: torch.device, labels: Tensor | None = None
    ) -> None:
        self.module = module
        self.inputs = inputs
        self.device = device
        self.labels = labels
        self.clock: Clock = time.perf_counter

    @property
    def allows_channels_last(self) -> bool:
        """Whether the other memory format means anything here."""
        weights = self.module.parameters()
        return self.inputs.dim() == 4 and any(weight.dim() == 4 for weight in weights)

    @property
    def compile_refusal(self) -> str | None:
        """Why compiled candidates are not offered, or None."""
        return None

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Work on a copy and give the random state back."""
        original = self.module
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self.module = self._prepare(copy.deepcopy(original))
            try:
                yield
            finally:
                self.module = original

    def cut(self, batch_size: int) -> None:
        """Go on with the first examples only."""
        self.inputs = self.inputs[:batch_size]
        self.labels = None if self.labels is None else self.labels[:batch_size]

    def outcome(self, candidate: Candidate) -> tuple[Tensor, ...]:
        """Return what the candidate computes, with dropout off, to be compared."""
        with _without_dropout(self.module):
            torch.manual_seed(0)
            return self._run(candidate)

    def seconds(self, candidate: Candidate) -> float:
        """Return the seconds of one pass, inputs brought into the format included."""
        apply_plan(self._module_for(candidate), candidate.as_plan())
        synchronize(self.device)
        began = self.clock()
        self._run(candidate)
        synchronize(self.device)
        return self.clock() - began

    def _pass(self, module: nn.Module, plan: NumericsPlan) -> Tensor:
        """Return the outputs of a module as a pass under the plan computes them."""
        inputs = prepare_inputs(self.inputs, plan)
        run: Pass = module
        if plan.compiled:
            run = CompiledPass(module, plan, len(inputs), forgiving=False)
        return run(inputs)

    @property
    def folds(self) -> bool:
        """Whether the pass can run with batch norms folded; known within `isolated`."""
        return False

    def _module_for(self, candidate: Candidate) -> nn.Module:
        return self.module

    @abstractmethod
    def _prepare(self, module: nn.Module) -> nn.Module: ...

    @abstractmethod
    def _run(self, candidate: Candidate) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def disagreement(
        self, reference: tuple[Tensor, ...], outcome: tuple[Tensor, ...], precision: Precision
    ) -> str | None:
        """Return in which way an outcome is too far from the reference, or None."""


class ForwardTrial(Trial):
    """A forward pass in eval mode; its outcome is the features, float32, shape (B, D)."""

    name = "forward"
    _folded: nn.Module | None = None

    @property
    def folds(self) -> bool:
        """Whether the pass can run with batch norms folded; known within `isolated`."""
        return self._folded is not None

    def _module_for(self, candidate: Candidate) -> nn.Module:
        return self._folded if candidate.folded and self._folded is not None else self.module

    def _prepare(self, module: nn.Module) -> nn.Module:
        # On a GPU nobody has measured what it is worth.
        if self.allows_channels_last and self.device.type == "cpu":
            self._folded = fold_batch_norms(module, self.inputs[:1])
        return module.eval()

    def _run(self, candidate: Candidate) -> tuple[Tensor, ...]:
        plan = candidate.as_plan()
        module = apply_plan(self._module_for(candidate), plan)
        with torch.no_grad(), autocast(plan, self.device):
            return (self._pass(module, plan).float(),)

    def disagreement(
        self, reference: tuple[Tensor, ...], outcome: tuple[Tensor, ...], precision: Precision
    ) -> str | None:
        """Return cosine and relative error of the features where one of them is too far."""
        expected, got = reference[0].flatten(1).double(), outcome[0].flatten(1).double()
        cosine = float(nn.functional.cosine_similarity(got, expected).min())
        error = float((got - expected).norm() / expected.norm())
        bound = MAX_FP32_ERROR if precision == "fp32" else MAX_RELATIVE_ERROR
        if not (cosine > MIN_FEATURE_COSINE and error < bound):
            return f"features: cosine {cosine:.5f}, relative error {error:.1e}"
        return None


class TrainTrial(Trial):
    """Forward, loss and backward; its outcome is the loss and every gradient, float32."""

    name = "train"

    @property
    def compile_refusal(self) -> str | None:
        """That something is frozen: such a model may be cut behind its frozen prefix.

        A cut replaces what modules do while it runs, which a graph does not see.
        """
        if all(weight.requires_grad for weight in self.module.parameters()):
            return None
        return "not offered: a part is frozen, and a cut behind it cannot be compiled"

    def _prepare(self, module: nn.Module) -> nn.Module:
        generator = torch.Generator(self.device).manual_seed(0)
        for weight in module.parameters():
            # A head of zeros sends no gradient into the backbone: there would be nothing to judge.
            if weight.requires_grad and weight.dim() == 2 and not weight.detach().any():
                nn.init.normal_(weight, std=0.02, generator=generator)
        return module

    def _run(self, candidate: Candidate) -> tuple[Tensor, ...]:
        plan = candidate.as_plan()
        apply_plan(self.module, plan)
        self.module.zero_grad(set_to_none=True)
        with autocast(plan, self.device):
            logits = self._pass(self.module, plan)
        assert self.labels is not None
        loss = nn.functional.cross_entropy(logits.float(), self.labels)
        scale = _LOSS_SCALE if candidate.precision == "fp16" else 1.0
        # As in the step: dtypes follow the forward pass, but TF32 has to be as the plan says. By
        # default CUDA convolutions use it, also for the gradients of the fp32 reference.
        tf32 = plan.precision == "tf32"
        with autocast(NumericsPlan(precision="tf32" if tf32 else "fp32"), self.device):
            torch.autograd.backward(loss * scale)
        weights = (weight for weight in self.module.parameters() if weight.requires_grad)
        gradients = (torch.zeros_like(w) if w.grad is None else w.grad for w in weights)
        return (loss.detach(), *(gradient / scale for gradient in gradients))

    def disagreement(
        self, reference: tuple[Tensor, ...], outcome: tuple[Tensor, ...], precision: Precision
    ) -> str | None:
        """Return errors of loss and gradient where one is too far.

        Some networks' gradients are so ill-conditioned that the order of summation moves them (a
        cosine of 0.994 was seen between the two formats in fp32), hence more room for fp32.
        """
        min_cosine = MIN_FP32_COSINE if precision == "fp32" else MIN_GRADIENT_COSINE
        loss, got_loss = float(reference[0]), float(outcome[0])
        error = abs(got_loss - loss) / max(abs(loss), 1e-12)
        products = [
            (float((g * e).sum()), float(g.square().sum()), float(e.square().sum()))
            for e, g in zip(reference[1:], outcome[1:], strict=True)
        ]
        dot, got, expected = (sum(column) for column in zip(*products, strict=True))
        cosine = dot / max((got * expected) ** 0.5, 1e-30)
        if not (error < MAX_RELATIVE_ERROR and cosine > min_cosine):
            return f"loss: relative error {error:.1e}, gradient cosine {cosine:.4f}"
        return None


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    # By name too: timm and torchvision have stochastic depth of their own.
    names = ("DropPath", "StochasticDepth", "DropBlock2d")
    dropouts = [
        part
        for part in module.modules()
        if (isinstance(part, nn.modules.dropout._DropoutNd) or type(part).__name__ in names)
        # One that drops nothing stays: a changed mode would have a graph compiled again.
        and (getattr(part, "p", None) or getattr(part, "drop_prob", None))
    ]
    before = [(part.training, getattr(part, "p", None)) for part in dropouts]
    for part in dropouts:
        part.training = False
        if isinstance(part, nn.Dropout):
            # Attention of transformers reads the rate and drops by itself.
            part.p = 0.0
    try:
        yield
    finally:
        for part, (training, rate) in zip(dropouts, before, strict=True):
            part.training = training
            if isinstance(part, nn.Dropout) and rate is not None:
                part.p = rate
