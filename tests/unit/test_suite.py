import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from textwrap import dedent
from time import perf_counter

import pytest

from bench import load_suite, plan_cells
from bench.errors import SuiteError
from bench.spec import Numerics, TrainingSpec
from tests.suite_plugins import TINY_NAMES, DialSpec, registered_plugins

SUITES = Path(__file__).parents[2] / "suites"
MINIMAL = """\
name: one
backbones: [tiny/resnet18]
datasets: [digits]
strategies: [dial]
"""


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    with registered_plugins():
        yield


class Writer:
    """Writes a suite file and reads it back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s.yaml"

    def load(self, text: str):
        self.path.write_text(dedent(text), encoding="utf-8")
        return load_suite(self.path)

    def problems(self, text: str) -> list[str]:
        """Return the problems without the folder of the file."""
        with pytest.raises(SuiteError) as caught:
            self.load(text)
        return [problem.replace(str(self.path), "s.yaml") for problem in caught.value.problems]

    def problem(self, text: str) -> str:
        """Return the one problem."""
        (problem,) = self.problems(text)
        return problem


@pytest.fixture
def suite(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def with_line(line: str, *, without: str | None = None) -> str:
    """The minimal suite with a line added, or put in place of the one with that key."""
    kept = [row for row in MINIMAL.splitlines() if not row.startswith(f"{without}:")]
    return "\n".join([*kept, line, ""])


# What a good file says


def test_a_minimal_suite_has_the_documented_defaults(suite):
    loaded = suite.load(MINIMAL)
    assert [spec.name for spec in loaded.backbones] == ["tiny/resnet18"]
    assert (loaded.seeds, loaded.split_seed, loaded.numerics) == ((0,), 0, Numerics.AUTO)
    assert not loaded.compile
    assert isinstance(loaded.strategies[0], DialSpec)


def test_every_kind_of_value_is_read(suite):
    loaded = suite.load("""\
        name: all
        backbones:
          - {name: tiny/resnet18, weights: random, mean: [0.1, 0.2, 0.3], std: 0.5}
        datasets:
          - {name: digits, image_size: 48, train_examples: 100}
        strategies:
          - {name: full, learning_rate: [3e-4, 1.0e-3], batch_size: 32, clip_norm: null}
        seeds: [0, 1]
        numerics: bf16
        compile: true
        limits: {cell_timeout: 1h30m, total_time: 90, host_memory: 2GiB}
        """)
    strategy = loaded.strategies[0]
    assert isinstance(strategy, TrainingSpec)
    assert strategy.learning_rate == (3e-4, 1e-3)
    assert strategy.clip_norm is None
    assert loaded.backbones[0].mean == (0.1, 0.2, 0.3)
    assert loaded.numerics is Numerics.BF16
    assert loaded.compile
    assert (loaded.limits.cell_timeout, loaded.limits.total_time) == (5400, 90)
    assert loaded.limits.host_memory == 2 << 30


@pytest.mark.parametrize("text", ["3e-4", "3E-4", "0.0003", ".0003", "3.e-4", "+3e-4"])
def test_numbers_are_read_as_people_write_them(suite, text):
    loaded = suite.load(
        with_line(f"strategies: [{{name: dial, level: {text}}}]", without="strategies")
    )
    assert loaded.strategies[0].level == pytest.approx(3e-4)


def test_words_that_yaml_1_1_took_for_booleans_are_text(suite):
    assert suite.load(with_line("name: on", without="name")).name == "on"


def test_an_anchor_can_be_merged_and_overridden(suite):
    loaded = suite.load(
        with_line(
            "strategies: [&a {name: dial, level: 2, steps: 7}, {<<: *a, level: 3}]",
            without="strategies",
        )
    )
    assert [(spec.level, spec.steps) for spec in loaded.strategies] == [(2, 7), (3, 7)]


def test_a_glob_stands_for_the_names_it_matches(suite):
    loaded = suite.load(with_line("backbones: [tiny/*mobilenetv4*]", without="backbones"))
    assert [spec.name for spec in loaded.backbones] == list(TINY_NAMES[:2])


def test_a_glob_keeps_the_other_fields_of_its_entry(suite):
    loaded = suite.load(
        with_line("backbones: [{name: 'tiny/*', weights: random}]", without="backbones")
    )
    assert {spec.weights for spec in loaded.backbones} == {"random"}
    assert len(loaded.backbones) == len(TINY_NAMES)


def test_a_glob_does_not_repeat_what_is_listed_by_itself(suite):
    loaded = suite.load(
        with_line("backbones: [tiny/resnet18.a1_in1k, tiny/*, tiny/res*]", without="backbones")
    )
    names = [spec.name for spec in loaded.backbones]
    assert sorted(names) == sorted(TINY_NAMES)


def test_a_name_without_its_tag_is_known(suite):
    loaded = suite.load(with_line("backbones: [tiny/resnet50]", without="backbones"))
    assert loaded.backbones[0].name == "tiny/resnet50"


def test_names_that_cannot_be_listed_are_left_to_their_source(suite):
    loaded = suite.load(with_line("datasets: [tiny/anything]", without="datasets"))
    assert loaded.datasets[0].name == "tiny/anything"


# One clear message per mistake


@pytest.mark.parametrize(
    ("line", "without", "expected"),
    [
        (
            "strategies: [linaer_probe]",
            "strategies",
            "s.yaml:4: unknown strategy 'linaer_probe'. Did you mean 'linear_probe'? Known: ",
        ),
        (
            "backbones: [tiny/resnet5O]",
            "backbones",
            "s.yaml:4: unknown backbone 'tiny/resnet5O'. Did you mean 'tiny/resnet50'? "
            f"Known: {', '.join(TINY_NAMES)}.",
        ),
        (
            "backbones: [tyni/resnet18]",
            "backbones",
            "s.yaml:4: unknown backbone 'tyni/resnet18'. Did you mean 'tiny/resnet18'? "
            "Known sources: hf, packaged, plain, timm, tiny, torchvision.",
        ),
        (
            "backbones: [tiny/vgg*]",
            "backbones",
            "s.yaml:4: no backbone matches 'tiny/vgg*'. List them with: "
            "bench list backbones 'tiny/*'",
        ),
        (
            "datasets: [digit]",
            "datasets",
            "s.yaml:4: unknown dataset 'digit'. Did you mean 'digits'? "
            "Known sources: chatterbot-topics, digits, folder, hf, mnist-5k, table, tiny, "
            "torchvision.",
        ),
        (
            "datasets: [kaggle/cifar10]",
            "datasets",
            "s.yaml:4: unknown dataset 'kaggle/cifar10'. "
            "Known sources: chatterbot-topics, digits, folder, hf, mnist-5k, table, tiny, "
            "torchvision.",
        ),
        (
            "datasets: ['digits:train']",
            "datasets",
            "s.yaml:4: unknown dataset 'digits:train'. Did you mean 'digits'? ",
        ),
        (
            "strategies: [{name: true}]",
            "strategies",
            "s.yaml:4: unknown strategy 'true'. Known: ",
        ),
        (
            "datasets: [{name: digits, label: stars}]",
            "datasets",
            "s.yaml:4: dataset 'digits' has no use for 'label'. Remove it.",
        ),
        (
            "datasets: [{name: 'table:r.csv', revision: main}]",
            "datasets",
            "s.yaml:4: dataset 'table:r.csv' has no use for 'revision'. It takes text, image, "
            "audio, label, split, val, test.",
        ),
        (
            "datasets: [{name: digits, lable: stars}]",
            "datasets",
            "s.yaml:4: unknown key 'lable'. Did you mean 'label'? Known: name, image_size, "
            "train_examples, shots, max_corrupt_fraction, refit, protocol, folds, splits, config, "
            "text, image, audio, label, split, val, test, revision, streaming.",
        ),
        (
            "backbones: [{name: tiny/resnet18, checkpoint: nowhere.pth}]",
            "backbones",
            "s.yaml:4: tiny/resnet18: checkpoint nowhere.pth does not exist",
        ),
        (
            "image_sise: 64",
            None,
            "s.yaml:5: unknown key 'image_sise'. Did you mean 'image_size'? Known: name, "
            "backbones, datasets, strategies, image_size, split_seed, seeds, shots, refit, "
            "protocol, numerics, compile, exclude, limits.",
        ),
        (
            "strategies: [{name: dial, levle: 3}]",
            "strategies",
            "s.yaml:4: unknown key 'levle'. Did you mean 'level'? Known: name, level, steps.",
        ),
        (
            "limits: {cell_timout: 2h}",
            None,
            "s.yaml:5: unknown key 'cell_timout'. Did you mean 'cell_timeout'? Known: "
            "cell_timeout, total_time, host_memory, profile_time.",
        ),
        ("name: two", None, "s.yaml:5: duplicate key 'name' (first on line 1): keep one of them"),
        ("image_size: 4", None, "s.yaml:5: image_size must be greater than or equal to 8, got 4"),
        ("image_size: big", None, "s.yaml:5: image_size must be a whole number, got 'big'"),
        ("image_size: true", None, "s.yaml:5: image_size must be a whole number, got true"),
        ("seeds: 3", None, "s.yaml:5: seeds must be a list, got 3"),
        (
            "seeds: 0-9",
            None,
            "s.yaml:5: seeds: '0-9' is not a range of seeds; write 0..9 for ten of them, or a list",
        ),
        ("seeds: 9..0", None, "s.yaml:5: seeds: '9..0' must go up, over at most 10000 seeds"),
        ("seeds: 0..10000", None, "s.yaml:5: seeds: '0..10000' must go up, over at most 10000 s"),
        ("seeds: [0, -1]", None, "s.yaml:5: seeds[1] must be greater than or equal to 0, got -1"),
        (
            "seeds: [1, 1]",
            None,
            "s.yaml:5: seed 1 is listed twice, which would repeat its cells",
        ),
        (
            "numerics: fp8",
            None,
            "s.yaml:5: numerics must be one of auto, fp32, bf16, fp16, got 'fp8'.",
        ),
        (
            "compile: often",
            None,
            "s.yaml:5: compile must be true or false, got 'often'",
        ),
        (
            "limits: {cell_timeout: 2x}",
            None,
            "s.yaml:5: cell_timeout: '2x' is not a duration; write 90s, 15m, 2h or 1h30m",
        ),
        ("limits: 3", None, "s.yaml:5: limits must be a mapping, got 3"),
        (
            "limits: {host_memory: 3GB5}",
            None,
            "s.yaml:5: host_memory must be a size such as 16GiB, got '3GB5'",
        ),
        ("name: my suite", "name", "s.yaml:4: name must match ^[A-Za-z0-9][A-Za-z"),
        ("backbones: []", "backbones", "s.yaml:4: backbones needs at least 1 value, got an empty"),
        ("backbones: [3]", "backbones", "s.yaml:4: backbones[0] must be a name or a mapping, got"),
        ("strategies: [{epochs: 3}]", "strategies", "s.yaml:4: the key 'name' is missing"),
        (
            "strategies: [{name: dial, level: -1}]",
            "strategies",
            "s.yaml:4: level must be greater than 0, got -1",
        ),
        (
            "strategies: [{name: full, mixup: -0.1, cutmix: 1}]",
            "strategies",
            "s.yaml:4: mixup must be greater than or equal to 0, got -0.1",
        ),
        (
            "strategies: [{name: dial, level: [1, -1]}]",
            "strategies",
            "s.yaml:4: level[1] must be greater than 0, got -1",
        ),
        (
            "strategies: [{name: dial, level: []}]",
            "strategies",
            "s.yaml:4: level needs at least 1 value, got an empty list",
        ),
        (
            "strategies: [{name: dial, level: {a: 1}}]",
            "strategies",
            "s.yaml:4: level must be a number, got a mapping",
        ),
        (
            "strategies: [{name: full, optimizer: adam}]",
            "strategies",
            "s.yaml:4: optimizer must be one of adamw, sgd, got 'adam'. Did you mean 'adamw'?",
        ),
        (
            "strategies: [dial, dial]",
            "strategies",
            "s.yaml:4: strategy 'dial' is listed twice (first on line 4), which would repeat",
        ),
        (
            "datasets: [{name: digits, shots: [8, 8]}]",
            "datasets",
            "s.yaml:4: dataset 'digits (8 shots)' repeats the one on line 4, which would repeat",
        ),
        (
            "shots: 8\ndatasets: [{name: digits, train_examples: 100}]",
            "datasets",
            "s.yaml:5: dataset 'digits' has train_examples together with the shots of the suite: "
            "both set the size of train; keep one",
        ),
        (
            "datasets: [{name: tiny/x, shots: 8, train_examples: 100}]",
            "datasets",
            "s.yaml:4: dataset 'tiny/x' has train_examples together with shots: both set the size",
        ),
        (
            "shots: [2, 8]\nstrategies: [{name: dial, level: [1, 2]}]",
            "strategies",
            "s.yaml:5: strategy 'dial' chooses among 2 settings on val: below 5 shots a fixed "
            "setting is required, and the suite has digits (2 shots); give one value of level",
        ),
        (
            "backbones: [tiny/resnet18, plain/pixels]\nstrategies: [turn, full, dial]",
            "",
            "s.yaml:5: 'plain/pixels' has nothing to train, so turn and full cannot adapt it; add "
            'exclude: [{backbone: "plain/pixels", strategy: turn}, '
            '{backbone: "plain/pixels", strategy: full}]',
        ),
        (
            "exclude: [{strategy: d*}]",
            None,
            "s.yaml:5: every cell is excluded; narrow or remove an exclude",
        ),
        (
            "exclude: [{backbone: '*vit*'}]",
            None,
            "s.yaml:5: this exclude matches no cell; correct its globs or remove it",
        ),
        (
            "exclude: [{}]",
            None,
            "s.yaml:5: exclude[0]: an empty exclude would leave out every cell",
        ),
    ],
)
def test_a_mistake_is_told_once_where_it_is(suite, line, without, expected):
    text = with_line(line, without=without)
    if "backbones" in line and "strategies" in line:
        text = "name: one\ndatasets: [digits]\n\n\n" + line + "\n"
    assert suite.problem(text).startswith(expected)


@pytest.mark.parametrize("key", ["name", "backbones", "datasets", "strategies"])
def test_a_missing_section_is_named(suite, key):
    assert suite.problem(with_line("", without=key)) == f"s.yaml:1: the key '{key}' is missing"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: a suite is a mapping with name, backbones, datasets and strategies; got nothing"),
        ("- a\n", "1: a suite is a mapping with name, backbones, datasets and strategies; got a"),
        ("name: [1\nseeds: 3\n", "2: not valid YAML: "),
        ("name: x\nseeds: [.inf]\n", "2: not valid YAML: .inf is not a finite number"),
        ("name: x\nseeds: !!int 3x\n", "2: not valid YAML: '3x' is not a number"),
        ("name: x\nimage_size: 1" + "0" * 400, "2: not valid YAML: '1000000000"),
        ("name: !python/name:os.system ''\n", "1: not valid YAML: the tag !python/name:os.system"),
        ("name: x\n? [a]\n: b\n", "2: not valid YAML: a key must be text, not a list or a mapping"),
        ("a: &a [*a]\n", "1: not a suite: "),
        ("a: 1\n---\nb: 2\n", "2: not valid YAML: "),
        ("name: x\n<<: 3\n", "2: not valid YAML: only a mapping can be merged with <<"),
        ("name: a\tb\n\x00", "2: not text: it holds the character '\\x00'"),
        ("[" * 5000, "1: not a suite: nested too deeply"),
    ],
)
def test_text_that_is_no_suite_is_one_clear_error(suite, text, expected):
    assert suite.problems(text)[0].startswith(f"s.yaml:{expected}")


def test_aliases_that_unfold_without_end_are_refused(suite):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    began = perf_counter()
    assert "aliases unfold to more than 100000 values" in suite.problem("\n".join(rows))
    assert perf_counter() - began < 5


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(SuiteError, match=r"none\.yaml: no such file; suites are YAML files"):
        load_suite(tmp_path / "none.yaml")


def test_a_folder_is_one_clear_error(tmp_path):
    with pytest.raises(SuiteError, match="cannot be read: Is a directory"):
        load_suite(tmp_path)


def test_bytes_that_are_not_utf_8_are_located(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_bytes(b"name: x\nbackbones: [\xff]\n")
    with pytest.raises(SuiteError, match=r"s\.yaml:2: not UTF-8 text"):
        load_suite(path)


def test_a_plugin_that_does_not_load_is_one_located_problem(suite):
    broken = {"strategies": {"broken": "no_such_module:Thing"}}
    with registered_plugins(broken):
        problem = suite.problem(with_line("strategies: [broken]", without="strategies"))
    assert problem.startswith("s.yaml:4: plugin 'broken' (no_such_module:Thing, entry point ")
    assert "does not load: ModuleNotFoundError" in problem


# All at once

SIX_MISTAKES = """\
name: six
backbones:
  - plain/pixle
  - plain/pixels
datasets:
  - {name: digits, image_size: huge}
  - mnist-5k
strategies:
  - linaer_probe
  - {name: full, learning_rate: [3e-4, -1], epochs: 0}
seeds: [0, 1]
seeds: [2]
"""
SIX_LINES = [3, 6, 9, 10, 10, 12]


def test_six_mistakes_are_six_located_messages(suite):
    problems = suite.problems(SIX_MISTAKES)
    assert [int(problem.split(":")[1]) for problem in problems] == SIX_LINES


def test_impossible_combinations_are_told_beside_other_mistakes(suite):
    problems = suite.problems(
        "name: x\nbackbones: [plain/pixels, tiny/x]\ndatasets: [digits]\nstrategies: [turn]\n"
    )
    assert len(problems) == 2
    assert "'plain/pixels' has nothing to train" in "".join(problems)


def test_below_five_shots_the_default_probe_must_be_given_one_strength(suite):
    text = "name: x\nbackbones: [plain/pixels]\ndatasets: [digits]\nshots: 1\n"
    assert "give one value of l2, or more shots" in suite.problem(
        text + "strategies: [linear_probe]"
    )
    assert suite.load(text + "strategies: [{name: linear_probe, l2: 1}, dial]").shots == 1


def test_few_shots_with_ten_draws_are_cells_of_one_row_each(suite):
    loaded = suite.load(
        """\
        name: few
        backbones: [plain/pixels]
        datasets: [digits]
        strategies: [{name: nearest_centroid, metric: cosine}, {name: linear_probe, l2: 1}]
        shots: [1, 5, 10]
        seeds: 0..9
        """
    )
    assert loaded.seeds == tuple(range(10))
    cells = plan_cells(loaded)
    assert len(cells) == 3 * 2 * 10
    rows = {(cell.dataset.label, cell.strategy.name) for cell in cells}
    assert len(rows) == 6 and ("digits (10 shots)", "linear_probe") in rows


@pytest.mark.parametrize(
    ("entry", "settings", "fields"),
    [
        ("knn", 24, "k and temperature"),
        ("{name: knn, k: 1}", 3, "temperature"),
        ("nearest_centroid", 2, "metric"),
        ("ridge_probe", 23, "l2"),
        ("linear_probe", 45, "l2"),
    ],
)
def test_below_five_shots_each_strategy_says_which_fields_to_fix(suite, entry, settings, fields):
    text = f"""\
        name: few
        backbones: [plain/pixels]
        datasets: [digits]
        shots: [1, 4, 5]
        strategies: [{entry}]
        """
    assert (
        f"chooses among {settings} settings on val: below 5 shots a fixed setting is required, and "
        f"the suite has digits (1 shots), digits (4 shots); give one value of {fields}, or more"
    ) in suite.problem(text)
    assert suite.load(text.replace("[1, 4, 5]", "[5, 10]")).shots == (5, 10)


def test_an_exclude_is_not_blamed_while_a_name_is_wrong(suite):
    text = MINIMAL.replace("resnet18]", "resnet18, tiny/vitt]") + "exclude: [{backbone: '*vit*'}]\n"
    assert "unknown backbone 'tiny/vitt'" in suite.problem(text)


@pytest.mark.timed
def test_six_mistakes_exit_2_in_a_second_without_torch(tmp_path):
    path = tmp_path / "six.yaml"
    path.write_text(SIX_MISTAKES)
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted({'torch', 'timm'} & set(sys.modules))))\n"
        f"sys.argv = ['bench', 'plan', {str(path)!r}]\n"
        "from bench.cli import main\n"
        "main()\n"
    )
    before = getrusage(RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    after = getrusage(RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stdout.strip() == "[]"
    lines = done.stderr.replace("error: ", "", 1).splitlines()
    assert [int(line.removeprefix(f"{path}:").split(":")[0]) for line in lines] == SIX_LINES
    # Processor time: the wall clock of a busy machine says nothing of this command.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


# The suites that ship


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_suite_loads_and_says_what_it_is(path):
    loaded = load_suite(path)
    head = path.read_text().split("name:")[0]
    assert loaded.name == path.stem
    assert plan_cells(loaded)
    for part in (
        "# What it measures",
        "# Command: bench run suites/",
        "# Expected time",
        "numbers",
    ):
        assert part in head


def test_the_vision_suite_is_twenty_cells():
    assert len(plan_cells(load_suite(SUITES / "vision.yaml"))) == 20
