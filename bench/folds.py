"""The cells of the folds of a dataset -> one record per seed; knows no table and no gate.

Every example is in the test split of one fold, so that the folds of a seed together say of each
example whether a model that had not seen it was right: that is the one test split of the seed.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from bench.metrics import join_outcomes
from bench.summary import RecordSummary, ScoreSummary


def pool_folds(records: Sequence[RecordSummary]) -> list[RecordSummary]:
    """Return one record per seed; a seed of which a fold is absent or has no scores is left out.

    Accuracy, top-5 accuracy, NLL and outcomes are those over all examples. Macro-F1, balanced
    accuracy and ECE are means over folds, weighted by examples, since they do not add up: a fold
    has few examples of a class. What is not of the splits is that of the first fold.

    Args:
        records: Of one row of a table; those without folds are returned as they are.
    """
    return [_pool(own) if own[0].cell.fold is not None else own[0] for own in _whole_seeds(records)]


def fold_sizes(records: Sequence[RecordSummary]) -> tuple[int, ...]:
    """Return the test examples of each fold of the first whole seed; none without folds.

    Args:
        records: Of one row of a table.
    """
    for own in _whole_seeds(records):
        if own[0].cell.fold is not None:
            return tuple(each.test.num_examples for each in own if each.test is not None)
    return ()


def missing_folds(records: Sequence[RecordSummary]) -> tuple[int, ...]:
    """Return the folds of which there is no record.

    Args:
        records: Of one seed of one row of a table.
    """
    held = {record.cell.fold for record in records}
    return tuple(fold for fold in range(records[0].cell.dataset.folds or 0) if fold not in held)


def _whole_seeds(records: Sequence[RecordSummary]) -> list[list[RecordSummary]]:
    """Return the records of each seed in the order of the folds."""
    seeds: dict[int, list[RecordSummary]] = defaultdict(list)
    found: list[list[RecordSummary]] = []
    for record in records:
        if record.cell.fold is None:
            found.append([record])
            continue
        if record.cell.seed not in seeds:
            found.append(seeds[record.cell.seed])
        seeds[record.cell.seed].append(record)
    return [sorted(own, key=_fold) for own in found if _is_whole(own)]


def _fold(record: RecordSummary) -> int:
    return record.cell.fold or 0


def _is_whole(records: Sequence[RecordSummary]) -> bool:
    if records[0].cell.fold is None:
        return True
    return not missing_folds(records) and all(record.test is not None for record in records)


def _pool(folds: Sequence[RecordSummary]) -> RecordSummary:
    tests = [record.test for record in folds if record.test is not None]
    vals = [record.val for record in folds if record.val is not None]
    outcomes = [record.outcomes for record in folds if record.outcomes is not None]
    sizes = [test.num_examples for test in tests]
    data = folds[0].data
    majorities = [record.data.majority_accuracy for record in folds if record.data is not None]
    if data is not None and len(majorities) == len(sizes):
        majority = fmean(majorities, sizes)
        data = data.model_copy(update={"majority_accuracy": majority})
    return folds[0].model_copy(
        update={
            "test": _pool_scores(tests),
            "val": _pool_scores(vals) if len(vals) == len(folds) else None,
            "outcomes": join_outcomes(outcomes) if len(outcomes) == len(folds) else None,
            "data": data,
        }
    )


def _pool_scores(scores: Sequence[ScoreSummary]) -> ScoreSummary:
    sizes = [each.num_examples for each in scores]
    top5 = [each.top5_accuracy for each in scores if each.top5_accuracy is not None]
    return ScoreSummary(
        num_examples=sum(sizes),
        accuracy=fmean((each.accuracy for each in scores), sizes),
        top5_accuracy=fmean(top5, sizes) if len(top5) == len(scores) else None,
        macro_f1=fmean((each.macro_f1 for each in scores), sizes),
        balanced_accuracy=fmean((each.balanced_accuracy for each in scores), sizes),
        nll=fmean((each.nll for each in scores), sizes),
        ece=fmean((each.ece for each in scores), sizes),
    )
