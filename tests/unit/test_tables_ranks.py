"""The ranks of rows, and what is called best or tied for best in tables."""

from dataclasses import replace

import numpy as np

from bench.significance import hierarchical_interval, outcome_spread
from bench.stats import accuracy_interval
from bench.tables import best_rows, render, scale, summarise, tied_rows
from bench.tables.ranking import told_apart
from bench.tables.terminal import terminal_text
from tests.records import NUM_TEST, make_record, with_outcomes


def _ends(rows):
    return {row.strategy: (row.rank_low, row.rank_high) for row in rows}


def _nested(accuracies: dict[str, float], seed: int = 0, **wishes):
    """Return a record per strategy; what a worse one has right, every better one has too."""
    order = np.arange(NUM_TEST)
    return [
        with_outcomes(make_record(strategy=name, seed=seed, **wishes), order < NUM_TEST * accuracy)
        for name, accuracy in accuracies.items()
    ]


def test_without_outcomes_a_row_is_best_when_its_interval_is_apart_from_all_others():
    rows = summarise([make_record(accuracy=0.8), make_record(strategy="full", accuracy=0.9)])
    assert _ends(rows) == {"full": (1, 1), "linear_probe": (2, 2)}
    assert [row.strategy for row in best_rows(rows)] == ["full"]
    assert tied_rows(rows) == []


def test_without_outcomes_rows_whose_intervals_touch_are_tied_and_none_is_best():
    # The upper end of the lower row lies below the other's accuracy: chance, all the same.
    rows = summarise([make_record(accuracy=0.9), make_record(strategy="full", accuracy=0.92)])
    assert rows[1].test_accuracy_high < rows[0].test_accuracy
    assert _ends(rows) == {"full": (1, 2), "linear_probe": (1, 2)}
    assert best_rows(rows) == []
    assert [row.strategy for row in tied_rows(rows)] == ["full", "linear_probe"]


def test_rows_on_the_same_examples_are_told_apart_where_their_intervals_are_not():
    rows = summarise(_nested({"full": 0.9, "linear_probe": 0.885}))
    full, probe = rows
    assert full.test_accuracy_low < probe.test_accuracy_high
    assert _ends(rows) == {"full": (1, 1), "linear_probe": (2, 2)}
    assert told_apart(full, probe)


def test_rows_on_other_examples_or_with_other_seeds_are_compared_by_their_intervals():
    full, probe = _nested({"full": 0.9, "linear_probe": 0.885})
    tie = {"full": (1, 2), "linear_probe": (1, 2)}
    moved = probe.outcomes.model_copy(update={"ids_digest": "another"})
    assert _ends(summarise([full, probe.model_copy(update={"outcomes": moved})])) == tie
    (other,) = _nested({"linear_probe": 0.885}, seed=1)
    assert _ends(summarise([full, other])) == tie


def test_outcomes_of_another_number_of_examples_than_the_scores_are_not_used():
    record = _nested({"full": 0.9})[0]
    test = record.test.model_copy(update={"num_examples": 500})
    (row,) = summarise([record.model_copy(update={"test": test})])
    interval = accuracy_interval([450], [500])
    assert (row.test_accuracy_low, row.test_accuracy_high) == (interval.low, interval.high)


def test_seeds_with_outcomes_have_the_hierarchical_interval():
    records = [_nested({"full": 0.9 + 0.01 * seed}, seed=seed)[0] for seed in range(3)]
    right = np.arange(NUM_TEST) < 1000 * np.array([[0.9], [0.91], [0.92]])
    interval = hierarchical_interval(outcome_spread(right))
    (row,) = summarise(records)
    assert (row.test_accuracy_low, row.test_accuracy_high) == (interval.low, interval.high)


def test_ranks_are_of_one_suite_run_and_dataset():
    names = {"full": 0.9, "partial": 0.8}
    groups = [{}, {"dataset": "mnist-5k"}, {"run_id": 2}, {"suite": "other"}]
    rows = summarise([record for group in groups for record in _nested(names, **group)])
    assert [(row.rank_low, row.rank_high) for row in rows] == [(1, 1), (2, 2)] * 4


def test_a_single_row_is_the_best_of_none():
    rows = summarise([make_record()])
    assert _ends(rows) == {"linear_probe": (1, 1)}
    assert best_rows(rows) == tied_rows(rows) == []


def test_a_leader_that_is_not_apart_from_a_row_that_cannot_be_first_is_not_best():
    (row,) = summarise([make_record()])
    leader = replace(row, rank_low=1, rank_high=2, test_accuracy=0.95)
    beaten = replace(row, rank_low=2, rank_high=3, backbone="timm/other")
    assert best_rows([leader, beaten]) == []
    assert tied_rows([leader, beaten]) == [leader]


def test_a_rank_is_one_number_or_the_two_it_lies_between():
    assert [scale.rank(1, 1), scale.rank(2, 5), scale.rank(None, None)] == ["1", "2–5", "–"]


def test_best_is_bold_and_ties_are_in_italics_with_marks_and_legend_of_their_own():
    apart = summarise(_nested({"full": 0.9, "linear_probe": 0.6}))
    tied = summarise(_nested({"full": 0.9, "linear_probe": 0.899}))
    assert ("**90.0**" in _markdown(apart), "*89.9*" in _markdown(tied)) == (True, True)
    assert "**" not in _markdown(tied)
    assert r"\textbf{90.0}" in render(apart, "latex").decode()
    assert r"\textit{89.9}" in render(tied, "latex").decode()
    texts = [terminal_text(rows, (), width=140) for rows in (apart, tied)]
    assert all(said in texts[0] for said in ("90.0 *", "* best: told apart from every other row"))
    assert all(said in texts[1] for said in ("90.0 =", "89.9 ="))
    assert "* best" not in texts[1]
    assert "= tied for best: these data do not tell which" in texts[1]


def _markdown(rows):
    return render(rows, "markdown").decode()


def test_a_table_of_single_seeds_says_that_other_seeds_are_not_covered():
    said = "of one seed, 95% and rank cover other test examples, not other seeds"
    single = terminal_text(summarise([make_record()]), (), width=160)
    several = terminal_text(summarise([make_record(), make_record(seed=1)]), (), width=160)
    assert (said in single, said in several) == (True, False)
