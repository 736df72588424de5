"""Plugins that are broken in every way: each names itself and harms nothing else."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import registry, survey
from bench.errors import BenchError, SuiteError
from bench.spec import BackboneSpec, Cell, DatasetSpec
from bench.suite import load_suite, suite_schema
from bench.suite.listing import list_known
from tests.plugin_folders import EXAMPLE, write_plugin

SOUND = """
from bench.interfaces import Located
from bench.spec import StrategySpec


class Twist:
    Spec = StrategySpec
    version = 1
    summary = "twists"
    trains_backbone = False

    def needs_val(self, spec):
        return False

    def adapt(self, task, spec):
        raise AssertionError


class Bin:
    prefix = "bin"

    def names(self):
        return ("bin/one",)

    def check(self, spec):
        return None

    def locate(self, spec):
        return Located()

    def load(self, spec, **options):
        raise AssertionError
"""
SUITE = """\
name: s
backbones: [{backbone}]
datasets: [digits]
strategies: [{strategy}]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which what is written counts as installed, until the test ends."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    _forget()
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
    _forget()


def _forget() -> None:
    registry.forget_plugins()
    survey.forget_files()


def write_suite(site: Path, *, backbone: str = "plain/pixels", strategy: str = "linear_probe"):
    path = site.parent / "s.yaml"
    path.write_text(SUITE.format(backbone=backbone, strategy=strategy))
    return path


def sole_problem(path: Path) -> str:
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    (problem,) = caught.value.problems
    return problem


def expect_harmless(site: Path) -> None:
    """Built-ins are listed, checked and described as if nothing else were installed."""
    assert len(load_suite(write_suite(site)).strategies) == 1
    for kind, name in (
        ("strategies", "full"),
        ("backbones", "plain/pixels"),
        ("datasets", "digits"),
    ):
        assert name in list_known(kind).names
    assert "strategy_full" in suite_schema()["$defs"]


def test_a_sound_plugin_is_ready_and_known_by_its_distribution(site):
    points = "[bench.strategies]\ntwist = sound:Twist\n[bench.backbones]\nbin = sound:Bin\n"
    write_plugin(site, "bench-sound", points=points, modules={"sound": SOUND}, version="2.5")
    states = {state.plugin.name: state for state in registry.plugin_states()}
    assert {name: state.word for name, state in states.items()} == {
        "bin": "ready",
        "twist": "ready",
    }
    assert states["twist"].plugin.origin == "bench-sound 2.5"
    assert list_known("strategies").names["twist"] == "twists"
    suite = load_suite(write_suite(site, backbone="bin/one", strategy="twist"))
    assert suite.strategies[0].name == "twist"


THING = "class Thing:\n"
BROKEN = [
    (
        "raise RuntimeError('no GPU here')",
        "broken:Thing",
        "does not load: RuntimeError: no GPU here. Fix or uninstall it.",
    ),
    ("import sys; sys.exit(3)", "broken:Thing", "does not load: SystemExit: 3."),
    ("", "broken:Thing", "does not load: AttributeError: module 'broken' has no attribute"),
    ("Thing = 3", "broken:Thing", "does not load: TypeError: 'int' object is not callable"),
    ("", "nowhere:Thing", "does not load: ModuleNotFoundError: No module named 'nowhere'"),
    ("", "not an object", "does not load: "),
    (
        THING + "    Spec = dict\n    version = 'one'\n    trains_backbone = False\n",
        "broken:Thing",
        "is no strategy: it has no method needs_val; it has no method adapt; its Spec is no "
        "subclass of StrategySpec; it has no version of type int; it has no summary of type str. "
        "Fix or uninstall it; see docs/plugins.md.",
    ),
]


@pytest.mark.parametrize(("module", "target", "message"), BROKEN)
def test_a_broken_strategy_names_itself_where_it_is_used_and_nowhere_else(
    site, module, target, message
):
    points = f"[bench.strategies]\nbroken = {target}\n"
    write_plugin(site, "bench-broken", points=points, modules={"broken": module})
    title = (
        f"plugin 'broken' ({target}, entry point bench.strategies, distribution bench-broken 1.0)"
    )
    problem = sole_problem(write_suite(site, strategy="broken"))
    assert problem.startswith(f"{site.parent / 's.yaml'}:4: {title} {message}"), problem
    (state,) = registry.plugin_states()
    assert (state.word, state.problem) == ("broken", problem.partition(":4: ")[2])
    listed = list_known("strategies")
    assert "broken" not in listed.names
    assert listed.notes == (state.problem,)
    expect_harmless(site)


def source(**methods: str) -> str:
    """Return a module with a sound source, with some methods replaced."""
    body = "".join(f"\n    def {name}(self, *_): {text}\n" for name, text in methods.items())
    return f"{SOUND}\n\nclass Thing(Bin):\n    prefix = 'broken'\n{body}"


ASKED = [
    ("names", "return 1 / 0", "fails in names(): ZeroDivisionError: division by zero."),
    ("names", "return 'broken/one'", "fails in names(): it gave 'broken/one', expected a sequence"),
    ("check", "return True", "fails in check(): it gave True, expected a sentence or None."),
    ("check", "raise KeyError('a')", "fails in check(): KeyError: 'a'. Fix or uninstall it."),
]


@pytest.mark.parametrize(("method", "text", "message"), ASKED)
def test_a_source_that_fails_when_asked_is_named(site, method, text, message):
    names = {} if method == "names" else {"names": "return ()"}
    module = source(**{method: text}, **names)
    points = "[bench.backbones]\nbroken = broken:Thing\n"
    write_plugin(site, "bench-broken", points=points, modules={"broken": module})
    problem = sole_problem(write_suite(site, backbone="broken/one"))
    assert f"distribution bench-broken 1.0) {message}" in problem
    expect_harmless(site)


def test_a_source_that_cannot_say_its_files_is_named(site):
    module = source(names="return ()", locate="return None")
    points = "[bench.backbones]\nbroken = broken:Thing\n"
    write_plugin(site, "bench-broken", points=points, modules={"broken": module})
    cell = make_cell(backbone="broken/one")
    with pytest.raises(BenchError, match=r"bench-broken 1\.0\) fails in locate\(\): it gave None"):
        survey.request_key(cell)


def test_a_source_that_lists_its_files_in_another_form_is_named(site):
    module = source(names="return ()", locate="return Located(missing=['x'])")
    module = f"from bench.interfaces import Located\n{module}"
    points = "[bench.backbones]\nbroken = broken:Thing\n"
    write_plugin(site, "bench-broken", points=points, modules={"broken": module})
    with pytest.raises(BenchError, match=r"expected a Located with tuples of paths, of Missing"):
        survey.request_key(make_cell(backbone="broken/one"))


def test_a_source_that_does_not_know_its_modality_yet_may_say_so(site):
    module = source(names="return ()", modality="return None")
    points = "[bench.backbones]\nbroken = broken:Thing\n"
    write_plugin(site, "bench-broken", points=points, modules={"broken": module})
    assert registry.backbone_modality(make_cell(backbone="broken/one").backbone) is None


def test_a_source_of_another_prefix_is_refused(site):
    points = "[bench.datasets]\nother = sound:Bin\n"
    write_plugin(site, "bench-sound", points=points, modules={"sound": SOUND})
    with pytest.raises(
        BenchError, match=r"is no dataset source: its prefix is 'bin', not 'other'\."
    ):
        registry.dataset_source("other/x")
    expect_harmless(site)


def test_a_plugin_with_the_name_of_a_built_in_is_not_used_and_said_to_be_so(site):
    points = "[bench.strategies]\nfull = sound:Twist\n"
    write_plugin(site, "bench-sound", points=points, modules={"sound": SOUND})
    assert type(registry.strategy("full")).__name__ == "Full"
    (state,) = registry.plugin_states()
    assert state.word == "not used"
    assert state.problem == (
        "plugin 'full' (sound:Twist, entry point bench.strategies, distribution bench-sound 1.0) "
        "is not used: the built-in of that name wins. Rename the entry point."
    )
    expect_harmless(site)


def test_of_two_plugins_with_one_name_neither_is_used(site):
    points = "[bench.strategies]\ntwist = sound:Twist\n"
    write_plugin(site, "bench-one", points=points, modules={"sound": SOUND})
    write_plugin(site, "bench-two", points=points)
    problem = sole_problem(write_suite(site, strategy="twist"))
    assert "distribution bench-one 1.0) and plugin 'twist'" in problem
    assert "distribution bench-two 1.0) give one name, and none is used." in problem
    assert [state.word for state in registry.plugin_states()] == ["not used", "not used"]
    expect_harmless(site)


@pytest.mark.parametrize("points", [b"[bench.strategies]\nno equals sign\n", b"[x]\n\xff"])
def test_damaged_entry_points_are_one_message_that_names_the_distribution(site, points):
    write_plugin(site, "bench-damaged", points=points)
    message = (
        r"the entry points of distribution bench-damaged cannot be read \(\w+: .*\), which keeps "
        r"Python from reading any\. Reinstall or uninstall it\."
    )
    with pytest.raises(BenchError, match=message):
        registry.registered("strategies")


def test_a_distribution_without_metadata_is_named_by_its_folder(site):
    points = "[bench.strategies]\ntwist = sound:Twist\n"
    write_plugin(site, "bench-sound", points=points, modules={"sound": SOUND})
    (site / "bench_sound-1.0.dist-info" / "METADATA").unlink()
    (state,) = registry.plugin_states()
    assert (state.plugin.origin, state.word) == (f"(nameless, in {site})", "ready")
    expect_harmless(site)


def test_the_first_on_the_path_hides_another_version(site, tmp_path, monkeypatch):
    points = "[bench.strategies]\ntwist = sound:Twist\n"
    write_plugin(site, "bench-sound", points=points, modules={"sound": SOUND})
    newer = tmp_path / "newer"
    write_plugin(newer, "bench-sound", points=points, modules={"sound": SOUND}, version="2.0")
    monkeypatch.syspath_prepend(str(newer))
    registry.forget_plugins()
    (state,) = registry.plugin_states()
    assert (state.plugin.version, state.word) == ("2.0", "ready")


def make_cell(backbone: str = "plain/pixels", strategy: str = "linear_probe") -> Cell:
    return Cell(
        suite="s",
        backbone=BackboneSpec(name=backbone),
        dataset=DatasetSpec(name="digits"),
        strategy=registry.strategy(strategy).Spec(name=strategy),
    )


def test_another_version_of_a_plugin_is_another_request(site, tmp_path, monkeypatch):
    points = "[bench.strategies]\ntwist = sound:Twist\n[bench.backbones]\nbin = sound:Bin\n"
    write_plugin(site, "bench-sound", points=points, modules={"sound": SOUND})
    cells = make_cell("bin/one"), make_cell(strategy="twist"), make_cell()
    before = [survey.request_key(cell) for cell in cells]
    newer = tmp_path / "newer"
    write_plugin(newer, "bench-sound", points=points, modules={"sound": SOUND}, version="1.1")
    monkeypatch.syspath_prepend(str(newer))
    _forget()
    after = [survey.request_key(cell) for cell in cells]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]


def test_each_file_of_the_example_is_short_and_named_in_the_documentation():
    text = (EXAMPLE.parents[2] / "docs" / "plugins.md").read_text()
    for name in ("lda", "npz", "random_filters"):
        path = EXAMPLE / "bench_example" / f"{name}.py"
        assert len(path.read_text().splitlines()) < 60
        assert str(path.relative_to(EXAMPLE.parents[2])) in text
