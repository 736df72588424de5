import json
from collections.abc import Iterator

import pytest

from bench.errors import UsageError
from bench.plan import parse_seeds, plan_cells, select_cells
from bench.spec import BackboneSpec, Cell, DatasetSpec, Exclude, StrategySpec, Suite
from bench.strategies.full import FullSpec
from bench.strategies.partial import PartialSpec
from bench.strategies.scratch import ScratchSpec
from bench.survey import request_key
from tests.suite_plugins import DialSpec, registered_plugins


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    with registered_plugins():
        yield


def make_suite(**fields) -> Suite:
    axes = {
        "backbones": [BackboneSpec(name="tiny/a"), BackboneSpec(name="tiny/b")],
        "datasets": [DatasetSpec(name="digits"), DatasetSpec(name="mnist-5k")],
        "strategies": [FullSpec(), DialSpec(name="dial"), PartialSpec()],
    }
    return Suite(name="s", **axes | fields)


def names(cells: tuple[Cell, ...]) -> list[tuple[str, str, str]]:
    return [(cell.strategy.name, cell.dataset.name, cell.backbone.name) for cell in cells]


def test_cells_are_the_product_of_all_axes():
    cells = plan_cells(make_suite(seeds=(0, 1, 2)))
    assert len(cells) == len(set(cells)) == 2 * 2 * 3 * 3


def test_what_trains_least_comes_first_and_artifacts_are_used_while_hot():
    by_dataset = [("digits", "tiny/a"), ("digits", "tiny/b")]
    by_dataset += [("mnist-5k", "tiny/a"), ("mnist-5k", "tiny/b")]
    expected = [(word, *pair) for word in ("dial", "partial", "full") for pair in by_dataset]
    assert names(plan_cells(make_suite())) == expected


def test_fewer_trainable_stages_come_before_more():
    strategies = [
        StrategySpec(name="turn"),
        PartialSpec(trainable_stages=(1, 3)),
        PartialSpec(trainable_stages=2),
    ]
    cells = plan_cells(make_suite(strategies=strategies, datasets=[DatasetSpec(name="digits")]))
    stages = [getattr(cell.strategy, "trainable_stages", None) for cell in cells]
    assert stages == [2, 2, (1, 3), (1, 3), None, None]


def test_scratch_gets_the_backbone_with_random_weights_and_the_label_says_so():
    backbone = BackboneSpec(name="tiny/a", checkpoint="w.safetensors", mean=0.5)
    one = {"backbones": [backbone], "datasets": [DatasetSpec(name="digits")]}
    full, scratch = plan_cells(make_suite(strategies=[FullSpec(), ScratchSpec()], **one))
    assert full.backbone == backbone
    assert scratch.backbone == BackboneSpec(name="tiny/a", weights="random", mean=0.5)
    assert scratch.backbone.label == "tiny/a (random)"
    assert request_key(full) != request_key(scratch)


def test_scratch_runs_once_for_a_name_whatever_weights_the_suite_has_of_it():
    backbones = [
        BackboneSpec(name="tiny/a"),
        BackboneSpec(name="tiny/a", weights="random"),
        BackboneSpec(name="tiny/a", checkpoint="w.safetensors"),
    ]
    one = {"backbones": backbones, "datasets": [DatasetSpec(name="digits")]}
    cells = plan_cells(make_suite(strategies=[FullSpec(), ScratchSpec()], seeds=(0, 1), **one))
    assert [cell.seed for cell in cells if cell.strategy.name == "scratch"] == [0, 1]
    assert len(cells) == 3 * 2 + 2


def test_seeds_of_a_cell_are_neighbours():
    assert [cell.seed for cell in plan_cells(make_suite(seeds=(3, 1)))][:4] == [3, 1, 3, 1]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({"strategy": "full"}, 8),
        ({"backbone": "*/a", "strategy": "full"}, 10),
        ({"dataset": "mnist*"}, 6),
        ({"backbone": "tiny/?", "dataset": "digits", "strategy": "[df]*"}, 8),
        ({"backbone": "TINY/*"}, 12),
    ],
)
def test_an_exclude_leaves_out_what_all_its_globs_match(rule, left):
    assert len(plan_cells(make_suite(exclude=[Exclude(**rule)]))) == left


def test_an_exclude_sees_the_control_and_the_shots_in_labels():
    suite = make_suite(
        backbones=[BackboneSpec(name="tiny/a"), BackboneSpec(name="tiny/a", weights="random")],
        datasets=[DatasetSpec(name="digits", shots=(1, 8))],
        strategies=[FullSpec()],
        exclude=[Exclude(backbone="*(random)"), Exclude(dataset="*(1 shots)")],
    )
    assert [cell.label for cell in plan_cells(suite)] == [
        "tiny/a · digits (8 shots) · full · seed 0"
    ]


def test_the_size_of_a_dataset_wins_over_the_size_of_the_suite():
    datasets = [DatasetSpec(name="digits", image_size=32), DatasetSpec(name="mnist-5k")]
    cells = plan_cells(make_suite(datasets=datasets, image_size=64))
    assert {(cell.dataset.name, cell.image_size) for cell in cells} == {
        ("digits", 32),
        ("mnist-5k", 64),
    }


def test_a_size_is_one_cell_whether_the_dataset_or_the_suite_gives_it():
    (own,) = plan_cells(make_suite(datasets=[DatasetSpec(name="digits", image_size=16)]))[:1]
    (whole,) = plan_cells(make_suite(datasets=[DatasetSpec(name="digits")], image_size=16))[:1]
    assert own == whole and own.image_size == 16 and own.canonical() == whole.canonical()
    stored = json.loads(whole.model_dump_json())
    stored |= {"dataset": {"name": "digits", "image_size": 16}, "image_size": 16}
    assert Cell.model_validate_json(json.dumps(stored)).canonical() == whole.canonical()


def test_without_any_size_the_backbone_decides():
    assert {cell.image_size for cell in plan_cells(make_suite())} == {None}


def test_shots_of_the_suite_apply_to_datasets_that_set_none():
    datasets = [DatasetSpec(name="digits", shots=5), DatasetSpec(name="mnist-5k")]
    cells = plan_cells(make_suite(datasets=datasets, shots=(8, 16), strategies=[FullSpec()]))
    shots = {(cell.dataset.name, cell.dataset.shots) for cell in cells}
    assert shots == {("digits", 5), ("mnist-5k", 8), ("mnist-5k", 16)}


def test_a_cell_carries_the_protocol_of_its_suite():
    cell = plan_cells(make_suite(split_seed=7, numerics="fp32", compile=True, seeds=(4,)))[0]
    assert (cell.suite, cell.split_seed, cell.numerics, cell.seed) == ("s", 7, "fp32", 4)
    assert cell.compile


def test_a_strategy_keeps_its_own_fields_in_a_cell():
    cells = plan_cells(make_suite(strategies=[FullSpec(epochs=7)]))
    assert cells[0].canonical()["strategy"]["epochs"] == 7


# Selection


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("full", 4),
        ("tiny/a", 6),
        ("digits", 6),
        ("tiny/*", 12),
        ("mnist-?k", 6),
        ("tiny/a · digits", 3),
        ("*digits · full*", 2),
        ("seed 0", 12),
    ],
)
def test_only_takes_a_glob_or_a_piece_of_the_label(pattern, count):
    assert len(select_cells(plan_cells(make_suite()), only=pattern)) == count


def test_a_name_with_brackets_can_be_selected_as_it_is_printed():
    cells = plan_cells(make_suite(datasets=[DatasetSpec(name="folder:[a]")]))
    assert select_cells(cells, only="folder:[a]") == cells


def test_only_that_matches_nothing_lists_what_there_is():
    with pytest.raises(UsageError) as caught:
        select_cells(plan_cells(make_suite()), only="resnet")
    assert str(caught.value).splitlines() == [
        "--only 'resnet' matches no cell.",
        "  backbones: tiny/a, tiny/b",
        "  datasets: digits, mnist-5k",
        "  strategies: dial, partial, full",
    ]


def test_a_long_list_of_what_there_is_is_cut():
    backbones = [BackboneSpec(name=f"tiny/{n}") for n in range(40)]
    with pytest.raises(UsageError, match="tiny/29 and 10 more"):
        select_cells(plan_cells(make_suite(backbones=backbones)), only="resnet")


def test_seeds_select_among_those_of_the_suite():
    cells = plan_cells(make_suite(seeds=(0, 1, 2)))
    assert {cell.seed for cell in select_cells(cells, seeds=(2, 0))} == {0, 2}


def test_a_seed_the_suite_lacks_is_refused():
    with pytest.raises(UsageError, match=r"the suite has no seed 7; it has 0\. Add it to seeds:"):
        select_cells(plan_cells(make_suite()), seeds=(0, 7))


def test_selection_keeps_the_order():
    cells = plan_cells(make_suite(seeds=(0, 1)))
    selected = select_cells(cells, only="tiny/b", seeds=(1,))
    assert list(selected) == [cell for cell in cells if cell in set(selected)]
    assert len(selected) == 6


def test_seeds_are_parsed():
    assert parse_seeds("0,1, 7") == (0, 1, 7)
    assert parse_seeds("3..5") == (3, 4, 5)


@pytest.mark.parametrize("text", ["", "a", "1;2", "1,,2", "0..", "5..3", "1,3..5"])
def test_seeds_that_are_no_numbers_are_refused(text):
    with pytest.raises(UsageError, match="is not a list of whole numbers such as 0,1,2"):
        parse_seeds(text)
