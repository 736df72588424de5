"""Numerics plans: the fastest precision and memory format that agrees with fp32; knows no strategy.

A plan is measured on a few batches once per machine and versions, remembered in the artifact cache
beyond the run, and afterwards recalled: near-ties would otherwise flip from night to night.

What `auto` does:

1. Candidates are {fp32, bf16} x {contiguous, channels_last} on a CPU, and tf32 and fp16 too on a
   CUDA device. channels_last is offered where inputs and some weights have four dimensions. fp16
   is never offered on a CPU, bf16 not on a GPU without it. Forward passes on a CPU are also tried
   with batch norms folded into the convolutions before them, in channels_last.
2. The reference is fp32 contiguous. A candidate that raises, is not finite or disagrees with the
   reference is rejected, with the reason. Forward guards: every example's features have a cosine
   above 0.999 with the reference's, and the relative error of all of them is below 2e-2, or 1e-4
   in fp32, which is the same arithmetic in another order. Folding is off the list in every
   precision where it fails in fp32. Train
   guards: relative error of the loss below 2e-2, and a cosine above 0.98 between the gradients of
   all parameters that train.
3. What is left is timed in interleaved rounds within a budget; candidates that take 1.5 times the
   best in the first round drop out.
4. The first in order of preference that is within 5% of the fastest median is kept: fp32
   channels_last, folded, and contiguous, then tf32, bf16 and fp16 likewise. So a reduced precision
   must earn more than 5%.
5. A forward pass on a CPU is then timed at 8, 16, 32 and 64 examples, as long as more do not take
   longer each, and the quickest is kept: activations of a large batch fall out of the cache.

On a CPU timings mean nothing while other work takes it (ten times slower at random was seen). When
this process's threads waited for a CPU for more than a tenth of the time, the first in order of
preference is taken, the others are `rejected` as not compared, and only the run remembers it; the
next run measures again. Within a run, and its re-issued commands, a plan never changes.

With `compile: true` the choice, and the fastest if that is another one, are then compiled: two
graphs at most, since each takes seconds to minutes. They are judged against the same reference and
timed in rounds with their eager twins, on the whole batch, since a graph is made for one shape. The
eager one is preferred, so that compiling must earn more than 5%, and the time of compiling is kept
beside the plan. A compiler that is missing or fails is a rejected candidate with the reason. A
training with frozen weights is not compiled, see `TrainTrial.compile_refusal`.

A pinned policy (`fp32`, `bf16`, `fp16`) measures nothing, unless a compiled twin is to be compared
with it. It takes channels_last where the module allows, except fp32 on CUDA, whose kernels prefer
contiguous. The two formats are the same arithmetic summed in another order: last bits differ
between them, never from night to night.
"""

from bench.numerics.applied import apply_plan, autocast, prepare_inputs
from bench.numerics.choice import plan_forward, plan_train
from bench.numerics.compiling import CompileSite, compiling_at
from bench.numerics.passes import make_pass

__all__ = [
    "CompileSite",
    "apply_plan",
    "autocast",
    "compiling_at",
    "make_pass",
    "plan_forward",
    "plan_train",
    "prepare_inputs",
]
