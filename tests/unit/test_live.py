import io

import pytest
from rich.console import Console

from bench.cli.live import LiveDisplay, Pace, PlainLines, describe_progress, watch
from bench.record import Failure, Progress, Recalled, Record, Status
from bench.spec import Cell, StrategySpec
from tests.records import make_record


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def cell(seed: int = 0, strategy: str = "full", **fields) -> Cell:
    return Cell(
        suite="vision",
        backbone="timm/resnet18",
        dataset="digits",
        strategy=StrategySpec(name=strategy, **fields),
        seed=seed,
    )


def record_of(cell: Cell, wall_seconds: float = 10.0, **fields) -> Record:
    made = make_record(accuracy=0.9312)
    update = {"cell": cell, "wall_seconds": wall_seconds} | fields
    if update.get("status", Status.OK) is not Status.OK:
        update["test"] = None
    return made.model_copy(update=update)


def make_pace(*cells: Cell, jobs: int = 1, estimates=None) -> tuple[Pace, FakeClock]:
    clock = FakeClock()
    pace = Pace(jobs, estimates or {}, clock=clock)
    pace.plan(cells)
    return pace, clock


def test_time_left_is_unknown_before_any_cell_has_ended():
    pace, _ = make_pace(cell(0), cell(1))
    pace.start(cell(0))
    assert pace.seconds_left() is None


def test_time_left_follows_cells_like_those_that_ended():
    pace, clock = make_pace(cell(0), cell(1), cell(2))
    pace.start(cell(0))
    clock.now += 12
    pace.finish(cell(0), record_of(cell(0), wall_seconds=10.0))
    pace.start(cell(1))
    clock.now += 4
    assert pace.seconds_left() == 6 + 10


def test_time_left_follows_earlier_runs_first():
    estimates = {cell(0): 30.0, cell(1): 50.0}
    pace, _ = make_pace(cell(0), cell(1), estimates=estimates)
    assert pace.seconds_left() == 80.0


def test_time_left_is_shared_by_cells_that_run_at_once():
    pace, _ = make_pace(cell(0), cell(1), jobs=2, estimates={cell(0): 30.0, cell(1): 30.0})
    assert pace.seconds_left() == 30.0


def test_a_cell_that_takes_longer_than_expected_owes_no_negative_time():
    pace, clock = make_pace(cell(0), cell(1), estimates={cell(0): 5.0, cell(1): 7.0})
    pace.start(cell(0))
    clock.now += 60
    assert pace.seconds_left() == 7.0


def test_a_recalled_cell_says_nothing_about_the_time_others_take():
    pace, _ = make_pace(cell(0), cell(1))
    pace.finish(cell(0), Recalled(request_key="r", key="k"))
    assert (pace.num_done, pace.seconds_left()) == (1, None)


def test_a_cell_that_failed_early_says_nothing_about_the_time_others_take():
    pace, _ = make_pace(cell(0), cell(1))
    pace.finish(cell(0), record_of(cell(0), wall_seconds=0.1, status=Status.ERROR))
    assert pace.seconds_left() is None


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(phase="load_backbone"), "load backbone"),
        (
            Progress(phase="train", epoch=2, num_epochs=5, val_accuracy=0.5),
            "train · epoch 2/5 · val 50.0%",
        ),
        (
            Progress(phase="train", grid_point=1, num_grid_points=3, epoch=1),
            "train · setting 1/3 · epoch 1",
        ),
        (Progress(phase="train", grid_point=1, num_grid_points=1), "train"),
        (Progress(phase="features", num_done=1280, num_total=5000), "features · 1,280 of 5,000"),
    ],
)
def test_progress_is_described_in_a_few_words(progress: Progress, text: str):
    assert describe_progress(progress) == text


def plain_lines(*cells: Cell) -> tuple[PlainLines, io.StringIO]:
    file = io.StringIO()
    pace, _ = make_pace()
    lines = PlainLines(Console(file=file, width=40), pace)
    lines.planned(cells, num_held=3)
    return lines, file


def test_plain_lines_say_how_each_cell_ended_on_one_line_however_narrow():
    lines, file = plain_lines(cell(0), cell(1))
    lines.progressed(cell(0), Progress(phase="start"))
    lines.progressed(cell(0), Progress(phase="train"))
    lines.finished(cell(0), record_of(cell(0)))
    assert file.getvalue() == (
        "2 cells to run; 3 held from before\n"
        "[1/2] ok        93.1%  timm/resnet18 · digits · full · seed 0  10s\n"
    )


def test_a_failed_cell_has_its_reason_under_it_and_markup_stays_text():
    lines, file = plain_lines(cell(0))
    failure = Failure(kind="SIGSEGV", message="ended [red]at[/] once", phase="train")
    lines.finished(cell(0), record_of(cell(0), status=Status.CRASHED, failure=failure))
    assert file.getvalue().splitlines()[1:] == [
        "[1/1] crashed       –  timm/resnet18 · digits · full · seed 0  10s",
        "           SIGSEGV in train: ended [red]at[/] once",
    ]


def test_a_recalled_cell_is_said_to_be_held():
    lines, file = plain_lines(cell(0))
    lines.finished(cell(0), Recalled(request_key="r", key="k"))
    assert file.getvalue().splitlines()[1].startswith("[1/1] held")


def test_two_settings_of_a_strategy_have_two_names():
    few, many = cell(epochs=1), cell(epochs=9)
    lines, file = plain_lines(few, many)
    lines.finished(few, record_of(few))
    lines.finished(many, record_of(many))
    assert "full (epochs=1)" in file.getvalue()
    assert "full (epochs=9)" in file.getvalue()


def test_the_live_display_shows_what_runs_and_the_whole():
    console = Console(file=io.StringIO(), width=110, force_terminal=True, color_system=None)
    pace, clock = make_pace(estimates={cell(0): 10.0, cell(1): 30.0})
    display = LiveDisplay(console, pace)
    display.planned([cell(0), cell(1)], num_held=0)
    display.progressed(cell(0), Progress(phase="start"))
    clock.now += 10
    display.finished(cell(0), record_of(cell(0)))
    display.progressed(cell(1), Progress(phase="start"))
    display.progressed(cell(1), Progress(phase="train", epoch=1, val_accuracy=0.75))
    display.progressed(cell(1), Progress(phase="train", epoch=2))
    clock.now += 5
    with console.capture() as captured:
        console.print(display.render())
    shown = " ".join(captured.get().split())
    assert "timm/resnet18 · digits · full · seed 1 train · epoch 2 · val 75.0% 5.0s" in shown
    assert "1/2 cells 15s so far · about 25s left" in shown
    assert "seed 0" not in shown


def test_a_cell_that_runs_past_its_estimate_is_nearly_done():
    console = Console(file=io.StringIO(), width=110)
    pace, clock = make_pace(estimates={cell(0): 10.0})
    display = LiveDisplay(console, pace)
    display.planned([cell(0)], num_held=0)
    display.progressed(cell(0), Progress(phase="start"))
    clock.now += 30
    with console.capture() as captured:
        console.print(display.render())
    assert "0/1 cells 30s so far · nearly done" in " ".join(captured.get().split())


def test_accuracy_on_val_does_not_outlive_its_phase():
    console = Console(file=io.StringIO(), width=110)
    pace, _ = make_pace()
    display = LiveDisplay(console, pace)
    display.planned([cell(0)], num_held=0)
    display.progressed(cell(0), Progress(phase="train", val_accuracy=0.75))
    display.progressed(cell(0), Progress(phase="profile"))
    with console.capture() as captured:
        console.print(display.render())
    assert "75.0%" not in captured.get()


def test_a_file_gets_plain_lines_and_a_terminal_the_live_display():
    with watch(Console(file=io.StringIO()), jobs=1, estimates={}) as observer:
        assert isinstance(observer, PlainLines)
    terminal = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    with watch(terminal, jobs=1, estimates={}) as observer:
        assert isinstance(observer, LiveDisplay)
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with watch(dumb, jobs=1, estimates={}) as observer:
        assert isinstance(observer, PlainLines)


def test_a_download_says_what_it_brings_and_how_far_it_is():
    begun = Progress(phase="download", item="weights of timm/x", num_bytes=0, total_bytes=98 << 20)
    assert describe_progress(begun) == "download · weights of timm/x · 0.0 of 98 MiB"
    unknown = begun.model_copy(update={"num_bytes": 12 << 20, "total_bytes": None})
    assert describe_progress(unknown) == "download · weights of timm/x · 12 MiB"
