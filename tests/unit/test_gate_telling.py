"""Where a night's numbers come from, and what it could have seen, as values; no command line."""

from dataclasses import replace

import pytest

from bench.gate import GateSettings, Metric, judge
from bench.gate.night import Night
from bench.gate.records import Side, label_records, read_run
from bench.record import ArtifactUse, Record
from bench.tables.detectable import Detectable, detectable_changes, detectable_text, size_text
from bench.tables.verdicts import verdict_lines
from tests.nights import Nights, World
from tests.records import make_record

PROBE = "packaged/efficientnet-lite0 · digits · linear_probe"
FULL = "packaged/efficientnet-lite0 · digits · full"


def profile(digest: str, *, built: bool) -> ArtifactUse:
    return ArtifactUse(kind="profile", digest=digest, built=built, seconds=3.0)


def using(record: Record, *uses: ArtifactUse) -> Record:
    features = ArtifactUse(kind="features", digest="f", built=False, seconds=1.0)
    return record.model_copy(update={"artifacts": (features, *uses)})


def read(*records: Record, now: tuple[Record, ...] = ()) -> Side:
    names = label_records(records)
    return read_run(records, names, title="", now=frozenset(record.request_key for record in now))


def shared_pair(**wishes: object) -> tuple[Record, Record]:
    """A cell that measures its inference profile, and one that shares it and trains besides."""
    first = using(make_record(strategy="linear_probe"), profile("i", built=True))
    second = make_record(strategy="full", **wishes)
    return first, using(second, profile("i", built=False), profile("t", built=True))


def test_a_profile_that_another_cell_measured_in_this_run_is_of_this_run_and_says_whose_it_is():
    first, second = shared_pair()
    side = read(first, second, now=(first, second))
    shared = f"measured in this run; profile by {PROBE} · seed 0, measured in this run"
    for metric in (Metric.INFER_RATE, Metric.LATENCY, Metric.INFER_MEMORY):
        assert side.origin(FULL, metric) == shared
        assert side.origin(PROBE, metric) == "measured in this run"
    for metric in (None, Metric.ACCURACY, Metric.TRAIN_RATE, Metric.HOST_MEMORY):
        assert side.origin(FULL, metric) == "measured in this run"


def test_a_profile_from_before_is_recalled_though_the_cell_was_measured_now():
    first, second = shared_pair()
    side = read(first, second, now=(second,))
    assert side.origin(FULL, Metric.INFER_RATE) == (
        f"measured in this run; profile by {PROBE} · seed 0, "
        "recalled, measured 2026-01-02 03:04 UTC"
    )
    assert side.origin(PROBE, Metric.INFER_RATE) == "recalled, measured 2026-01-02 03:04 UTC"


def test_a_profile_whose_cell_the_run_no_longer_holds_is_told_as_that():
    _, second = shared_pair()
    side = read(second, now=(second,))
    told = side.origin(FULL, Metric.LATENCY)
    assert told == "measured in this run; profile by an earlier cell of the run"


def test_seeds_of_one_cell_that_share_a_profile_say_so_only_where_their_times_differ():
    first = using(make_record(seed=0), profile("i", built=True))
    second = using(make_record(seed=1), profile("i", built=False))
    assert read(first, second).profile_origins == {}
    assert read(first, second, now=(first, second)).profile_origins == {}
    mixed = read(first, second, now=(second,)).profile_origins
    assert mixed[PROBE, Metric.INFER_RATE].startswith(f"profile by {PROBE} · seed 0, recalled")


@pytest.mark.parametrize("uses", [(), (profile("i", built=False),)])
def test_a_record_that_does_not_tell_which_profile_it_shared_says_nothing(uses):
    # It has two profiles, and one of them was disturbed, so that no artifact holds it.
    record = using(make_record(strategy="full"), *uses)
    assert read(record).profile_origins == {}


def test_an_unknown_cell_has_no_origin():
    assert read(make_record()).origin("another", Metric.ACCURACY) == ""


def judged(settings: GateSettings, history=None) -> Night:
    nights = Nights(World(num_cells=3, num_seeds=1, num_examples=300, flips=0.1), 0)
    before, after = nights.run(), nights.run()
    side = Side("", "", "", before, {})
    verdicts = judge(before, after, settings, history)
    return Night(side, replace(side, cells=after), settings, verdicts, ())


def test_the_detectable_change_of_a_family_is_the_median_and_the_worst_of_its_rows():
    night = judged(GateSettings(num_replicates=200))
    found = {each.family: each for each in detectable_changes(night)}
    assert list(found) == ["accuracy", "macro_f1", "nll", "throughput", "memory"]
    own = sorted(row.detectable for row in night.verdicts.rows if row.metric is Metric.ACCURACY)
    assert (found["accuracy"].median, found["accuracy"].worst) == (own[1], own[2])
    assert (found["accuracy"].num_rows, found["accuracy"].min_effect) == (3, 0.005)
    assert found["accuracy"].noise == "not allowed for"
    assert (found["throughput"].noise, found["throughput"].num_assumed) == ("assumed", 3)
    text = detectable_text(night)
    assert f"accuracy {100 * own[1]:.1f} pt ({100 * own[2]:.1f} pt; noise not allowed for)" in text


def test_noise_that_history_measured_is_told_apart_from_assumed_noise():
    history = {("cell 0", Metric.INFER_MEMORY): [[1.0, 1.01, 0.99, 1.0]]}
    night = judged(GateSettings(num_replicates=200), history)
    memory = [line for line in verdict_lines(night) if line.metric == "infer memory"]
    assert [line.noise.split()[1] for line in memory] == ["measured"] * 3
    rate = [line for line in verdict_lines(night) if line.metric == "infer/s"]
    assert all(line.noise.endswith("% assumed") for line in rate)
    assert {line.noise for line in verdict_lines(night) if line.metric == "accuracy"} == {""}


def test_a_family_whose_noise_is_measured_in_part_says_for_how_many_rows():
    part = Detectable("memory", 5, 0.02, 0.03, 0.02, num_measured=2, num_assumed=3)
    assert part.noise == "measured for 2 of 5 rows, else assumed"
    assert replace(part, num_assumed=0).noise == "measured"


def test_a_night_without_a_test_has_no_detectable_change():
    night = judged(GateSettings(num_replicates=200))
    empty = replace(night, verdicts=judge(night.baseline.cells, ()))
    assert (detectable_changes(empty), detectable_text(empty)) == ([], "")


@pytest.mark.parametrize(
    ("value", "family", "text"),
    [
        (0.0052, "accuracy", "0.52 pt"),
        (0.1234, "macro_f1", "12.3 pt"),
        (0.0131, "nll", "0.013"),
        (0.051, "throughput", "5.1%"),
        (1.5, "memory", "150.0%"),
        (0.0, "memory", "0%"),
    ],
)
def test_sizes_of_change_have_their_units(value: float, family: str, text: str):
    assert size_text(value, family) == text
