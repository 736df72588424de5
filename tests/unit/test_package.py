"""What the distribution promises: nine names, a version with its changelog, a light start."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import bench

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "timm", "transformers", "numpy", "sqlalchemy", "rich", "pydantic"}
COMMANDS = {"run", "plan", "table", "report", "list", "show", "explain", "doctor", "schema"} | {
    "baseline",
    "compare",
}


def imported_by(code: str) -> set[str]:
    """Return the top-level modules that are loaded after some code, in a fresh interpreter."""
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


def test_the_python_api_has_nine_names_and_each_is_there() -> None:
    assert set(bench.__all__) == {
        "load_suite",
        "plan_cells",
        "run_sweep",
        "open_store",
        "load_records",
        "compare_records",
        "Suite",
        "Cell",
        "Record",
    }
    for name in bench.__all__:
        assert getattr(bench, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(bench, "run_everything")


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not imported_by("import bench") & HEAVY


def test_help_imports_no_torch_and_no_database() -> None:
    code = (
        "import contextlib, io\nfrom bench.cli import main\nsys.argv = ['bench', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main()"
    )
    assert not imported_by(code) & HEAVY


@pytest.mark.timed
def test_help_takes_less_than_three_tenths_of_a_second_and_names_every_command() -> None:
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "bench", "--help"], capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # Processor seconds: other work on the machine does not count.
    assert min(times) < 0.3
    assert set(re.findall(r"^  (\w+) ", done.stdout, re.MULTILINE)) >= COMMANDS


def test_the_changelog_has_a_section_for_the_version() -> None:
    assert f"\n## {bench.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "pip install -e '.[samples]' && bench run suites/vision.yaml" in text
    assert "pip install -e '.[samples,test]' && pytest" in text
