"""Is a difference more than chance: arrays in, numbers out; knows no record, no cell, no verdict.

Every function is plain NumPy and gives the same numbers for the same input: what is drawn at
random comes from a fixed seed.
"""

from bench.significance.family import adjust_holm, detectable_effect, sample_factor
from bench.significance.folds import NO_EXCESS, FoldExcess, fold_excess
from bench.significance.hierarchy import Spread, hierarchical_interval, outcome_spread
from bench.significance.noise import Noise, between_run_noise, pool_noise
from bench.significance.paired import (
    PairedEffect,
    paired_effect,
    paired_test,
    pool_spread,
    sign_flip_p,
)
from bench.significance.ranks import Ranks, better_rows, rank_ends
from bench.significance.ratios import RatioEffect, ratio_effect, ratio_test
from bench.significance.resampling import (
    macro_f1,
    macro_f1_replicates,
    mean_replicates,
    resample_weights,
    sum_by_class,
)
from bench.significance.result import Tested
from bench.significance.shifts import Change, ChangeKind, ShiftSettings, find_changes, levels

__all__ = [
    "NO_EXCESS",
    "Change",
    "ChangeKind",
    "FoldExcess",
    "Noise",
    "PairedEffect",
    "Ranks",
    "RatioEffect",
    "ShiftSettings",
    "Spread",
    "Tested",
    "adjust_holm",
    "better_rows",
    "between_run_noise",
    "detectable_effect",
    "find_changes",
    "fold_excess",
    "hierarchical_interval",
    "levels",
    "macro_f1",
    "macro_f1_replicates",
    "mean_replicates",
    "outcome_spread",
    "paired_effect",
    "paired_test",
    "pool_noise",
    "pool_spread",
    "rank_ends",
    "ratio_effect",
    "ratio_test",
    "resample_weights",
    "sample_factor",
    "sign_flip_p",
    "sum_by_class",
]
