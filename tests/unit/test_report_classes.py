"""What the report says of classes: counts per split, escaped, folded where there are many."""

import re

from bench.record import Record, SplitInfo
from bench.report.classes import class_tables
from bench.report.page import render_page
from bench.store import open_store
from tests.records import make_record

HOSTILE = "<script>alert(1)</script>"


def with_counts(record: Record, **splits: tuple[int, ...]) -> Record:
    """Return a record whose splits hold so many examples of each class."""
    parts = {
        name: SplitInfo(num_examples=sum(counts), class_counts=counts, ids_digest=name)
        for name, counts in splits.items()
    }
    return record.model_copy(update={"data": record.data.model_copy(update={"splits": parts})})


def make(names: tuple[str, ...] = ("ant", "bee"), dataset: str = "insects", **splits) -> Record:
    splits = splits or {"train": (30, 10), "val": (6, 2), "test": (5, 5)}
    return with_counts(make_record(class_names=names, dataset=dataset), **splits)


def page_of(*records: Record) -> str:
    return render_page(records, suite="s", command="bench run s.yaml", wholes=records)


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_each_class_has_its_examples_in_each_split():
    section = text_of(page_of(make()).partition('<section id="classes"')[2])
    assert "2 classes; train 40, val 8, test 10 examples (seed 0)." in section
    assert "Class train val test ant 30 6 5 bee 10 2 5" in section
    assert "The largest class of train has 3.00 times the examples of the smallest." in section


def test_names_of_classes_are_escaped():
    page = page_of(make(names=(HOSTILE, "b"), dataset=f"folder:{HOSTILE}"))
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;</th>") == 1


def test_more_than_twenty_classes_are_behind_a_click_and_more_than_a_thousand_are_cut():
    def table_of(count: int):
        names, counts = tuple(map(str, range(count))), (1,) * count
        record = make(names=names, train=counts, test=counts)
        (table,) = class_tables([record])
        return table, page_of(record)

    few, page = table_of(20)
    assert not few.is_long
    assert "<summary>All classes</summary>" not in page
    many, page = table_of(21)
    assert many.is_long
    assert "<summary>All classes</summary>" in page
    most, page = table_of(1003)
    assert (len(most.rows), most.num_hidden) == (1000, 3)
    assert "and 3 more classes." in page


def test_a_class_without_train_examples_and_equal_classes_are_said():
    assert "Some class has no train example." in page_of(make(train=(3, 0), test=(1, 1)))
    assert "Classes of train are of one size." in page_of(make(train=(3, 3), test=(1, 1)))


def test_of_several_cells_the_one_with_a_val_split_speaks():
    without = make(train=(40, 20), test=(5, 5))
    (table,) = class_tables([without, make()])
    assert table.splits == ("train", "val", "test")


def test_a_page_without_whole_records_has_no_section_on_data():
    page = render_page([make()], suite="s", command="bench run s.yaml")
    assert 'id="classes"' not in page
    assert 'href="#classes"' not in page


def test_a_store_gives_one_whole_record_per_dataset_with_its_classes(tmp_path):
    with open_store(str(tmp_path / "bench.db")) as store:
        run = store.start_run("vision")
        records = [
            make_record(dataset=dataset, strategy=strategy, run_id=run.id)
            for dataset in ("digits", "mnist-5k")
            for strategy in ("linear_probe", "full")
        ]
        for record in records:
            store.add(record)
        wholes = store.one_per_dataset(store.summaries("vision"))
    assert [whole.cell.dataset.name for whole in wholes] == ["digits", "mnist-5k"]
    assert wholes[0].data.class_names == records[0].data.class_names
