import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.spec import (
    BackboneSpec,
    Cell,
    DatasetSpec,
    Exclude,
    Limits,
    StrategySpec,
    Suite,
    TrainingSpec,
    parse_duration,
)


def make_cell(**fields) -> Cell:
    axes = {
        "suite": "s",
        "backbone": BackboneSpec(name="timm/resnet18"),
        "dataset": DatasetSpec(name="digits"),
        "strategy": TrainingSpec(name="full"),
    }
    return Cell(**axes | fields)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), (" 2m30s ", 150)],
)
def test_durations_are_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "2x", "h", "30m1h", "-2h", "2h nonsense"])
def test_a_text_that_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="is not a duration; write 90s, 15m, 2h or 1h30m"):
        parse_duration(text)


def test_a_number_is_seconds_already():
    assert Limits(cell_timeout=90).cell_timeout == 90


@pytest.mark.parametrize("value", ["0s", 0, -1])
def test_a_limit_of_no_time_is_refused(value):
    with pytest.raises(ValidationError):
        Limits(cell_timeout=value)


def test_a_name_may_stand_for_a_mapping():
    assert BackboneSpec.model_validate("timm/resnet18") == BackboneSpec(name="timm/resnet18")


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, "timm/resnet18"),
        ({"weights": "random"}, "timm/resnet18 (random)"),
        ({"checkpoint": "~/weights/mae.pth"}, "timm/resnet18 (mae.pth)"),
        ({"revision": "v2"}, "timm/resnet18 (v2)"),
    ],
)
def test_a_label_tells_what_weights_are_meant(fields, label):
    assert BackboneSpec(name="timm/resnet18", **fields).label == label


def test_a_cell_label_is_one_line_of_its_four_parts():
    cell = make_cell(dataset=DatasetSpec(name="digits", shots=8), seed=3)
    assert cell.label == "timm/resnet18 · digits (8 shots) · full · seed 3"


def test_specs_are_closed_and_frozen():
    with pytest.raises(ValidationError):
        TrainingSpec(name="full", epoch=3)
    with pytest.raises(ValidationError):
        BackboneSpec(name="a").name = "b"


def test_a_strategy_no_longer_installed_keeps_its_fields():
    assert StrategySpec(name="gone", level=3).model_dump() == {"name": "gone", "level": 3}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf"])
def test_numbers_of_a_spec_are_finite(value):
    with pytest.raises(ValidationError):
        TrainingSpec(name="full", learning_rate=value)


def test_mixing_is_part_of_a_cell_only_where_it_is_on():
    off = make_cell(strategy=TrainingSpec(name="full"))
    on = make_cell(strategy=TrainingSpec(name="full", cutmix=1.0))
    assert not {"mixup", "cutmix"} & set(off.canonical()["strategy"])
    assert on.canonical()["strategy"] == off.canonical()["strategy"] | {"cutmix": 1.0}
    assert TrainingSpec.model_validate(on.canonical()["strategy"]) == on.strategy
    assert [point.cutmix for point in on.strategy.grid_points()] == [1.0]


def test_a_grid_gives_its_points_in_the_order_of_the_fields():
    spec = TrainingSpec(name="full", learning_rate=(1e-3, 1e-2), batch_size=(8, 16))
    points = [(point.batch_size, point.learning_rate) for point in spec.grid_points()]
    assert points == [(8, 1e-3), (8, 1e-2), (16, 1e-3), (16, 1e-2)]


def test_a_spec_without_grids_is_its_only_point():
    spec = TrainingSpec(name="full")
    assert spec.grid_points() == (spec,)


def test_an_empty_grid_is_refused():
    with pytest.raises(ValidationError):
        TrainingSpec(name="full", learning_rate=())


@given(
    rates=st.lists(st.floats(1e-6, 1), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 512), min_size=1, max_size=4),
)
def test_a_grid_has_the_product_of_its_lengths(rates, sizes):
    spec = TrainingSpec(name="full", learning_rate=tuple(rates), batch_size=tuple(sizes))
    assert len(spec.grid_points()) == len(rates) * len(sizes)


@pytest.mark.parametrize(
    ("own", "default", "expected"),
    [
        (None, None, [None]),
        (None, 5, [5]),
        (None, (5, 10), [5, 10]),
        (8, (5, 10), [8]),
        ((1, 2), 5, [1, 2]),
    ],
)
def test_shots_of_a_dataset_win_and_expand(own, default, expected):
    variants = DatasetSpec(name="digits", shots=own).per_shots(default)
    assert [variant.shots for variant in variants] == expected


def test_a_dataset_without_selectors_is_dumped_as_it_was_before_there_were_any():
    assert list(DatasetSpec(name="digits").model_dump()) == [
        "name",
        "image_size",
        "train_examples",
        "shots",
        "max_corrupt_fraction",
    ]


def test_selectors_of_a_dataset_are_dumped_under_the_keys_of_the_suite_and_read_back():
    spec = DatasetSpec.model_validate({"name": "table:r.csv", "label": "stars", "text": "body"})
    dumped = spec.model_dump(mode="json")
    assert (dumped["label"], dumped["text"]) == ("stars", "body") and "test" not in dumped
    assert DatasetSpec.model_validate(dumped) == spec
    assert spec.selectors == {"text": "body", "label": "stars"}


def test_selectors_are_part_of_a_dataset_s_name_in_tables():
    spec = DatasetSpec.model_validate({"name": "table:r.csv", "label": "stars", "shots": 8})
    assert spec.label == "table:r.csv (stars, 8 shots)"
    assert DatasetSpec(name="digits", shots=8).label == "digits (8 shots)"


def test_an_exclude_matches_by_name_or_label_on_every_axis():
    rule = Exclude(backbone="*(random)", strategy="fu*")
    random = BackboneSpec(name="timm/a", weights="random")
    digits, full = DatasetSpec(name="digits"), StrategySpec(name="full")
    assert rule.matches(random, digits, full)
    assert not rule.matches(random, digits, StrategySpec(name="partial"))
    assert not rule.matches(BackboneSpec(name="timm/a"), digits, full)
    assert Exclude(backbone="timm/a").matches(random, digits, full)


def test_an_exclude_of_everything_is_refused():
    with pytest.raises(ValidationError, match="would leave out every cell"):
        Exclude()


def test_a_suite_keeps_the_own_class_of_a_strategy():
    suite = Suite(
        name="s",
        backbones=[BackboneSpec(name="a")],
        datasets=[DatasetSpec(name="d")],
        strategies=[TrainingSpec(name="full", epochs=7)],
    )
    assert isinstance(suite.strategies[0], TrainingSpec)
    assert suite.model_dump()["strategies"][0]["epochs"] == 7


def test_the_canonical_cell_leaves_the_suite_out_and_survives_json():
    cell = make_cell(strategy=TrainingSpec(name="full", learning_rate=(1e-3, 1e-2)))
    other = make_cell(suite="t", strategy=TrainingSpec(name="full", learning_rate=(1e-3, 1e-2)))
    assert cell.canonical() == other.canonical()
    assert cell.canonical()["strategy"]["learning_rate"] == [1e-3, 1e-2]
    assert cell.canonical() != make_cell().canonical()


def test_a_cell_that_does_not_compile_is_known_by_what_it_was_before_cells_could():
    assert "compile" not in make_cell().canonical()
    assert make_cell(compile=True).canonical() == make_cell().canonical() | {"compile": True}
