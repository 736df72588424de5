"""What docs/nightly.md tells people to copy is real: its workflow, its cron line, its commands."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from bench.cli import make_app

ROOT = Path(__file__).resolve().parents[2]
NAME_ALONE = re.compile(r"bench( baseline| store)? [a-z]+")
TEXT = (ROOT / "docs" / "nightly.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def workflow() -> dict[Any, Any]:
    (text,) = blocks("yaml")
    return yaml.safe_load(text)


def cron_line() -> str:
    (text,) = [block for block in blocks("") if "mail" in block]
    return text.strip()


def shell_lines() -> list[str]:
    steps = workflow()["jobs"]["gate"]["steps"]
    lines = [line for step in steps for line in step.get("run", "").splitlines()]
    lines += [line for block in blocks("bash") for line in block.splitlines()]
    # A name alone, as in `bench history`, is talked of and not to be copied.
    mentions = re.findall(r"`(bench [^`]+)`", TEXT)
    lines += [mention for mention in mentions if not NAME_ALONE.fullmatch(mention)]
    return [*lines, cron_line().split(" ", 5)[5]]


def bench_commands() -> list[list[str]]:
    found = []
    for line in shell_lines():
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            if word == "bench" or word.endswith("/bench"):
                rest = words[place + 1 :]
                ends = [i for i, each in enumerate(rest) if each in (">", ">>", "||", "&&", ";")]
                found.append(rest[: min(ends, default=len(rest))])
    return found


def parse(words: list[str], app: typer.Typer) -> None:
    """Read a command line as the real one does, and run nothing."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context("bench", rest)


def test_every_command_has_flags_that_exist():
    commands = bench_commands()
    assert len(commands) >= 8
    app = make_app()
    for words in commands:
        parse(words, app)


def test_a_flag_that_does_not_exist_would_be_found():
    with pytest.raises(Exception, match="No such option: --agianst"):
        parse(["run", "suites/vision.yaml", "--agianst", "main"], make_app())


def test_suites_and_extras_that_it_names_exist():
    words = [word for command in bench_commands() for word in command]
    suites = {word for word in words if word.startswith("suites/")}
    assert suites == {"suites/vision.yaml"}
    assert all((ROOT / suite).is_file() for suite in suites)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "samples" in extras["optional-dependencies"]
    assert any("'.[samples]'" in line for line in shell_lines())


def test_the_workflow_runs_every_night_and_keeps_its_report_under_a_name():
    value = workflow()
    # YAML 1.1 reads the key `on` as a truth value.
    ((schedule,),) = [value[True]["schedule"]]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", schedule["cron"])
    steps = value["jobs"]["gate"]["steps"]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    (upload,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    assert upload["with"]["name"] == "bench-vision-${{ github.run_id }}"
    assert upload["with"]["path"] == "report/vision/"
    assert upload["if"] == "always()"


def test_the_summary_step_appends_the_verdicts_and_does_without_them(tmp_path: Path):
    steps = workflow()["jobs"]["gate"]["steps"]
    (step,) = [step for step in steps if "GITHUB_STEP_SUMMARY" in step.get("run", "")]
    summary = tmp_path / "summary.md"
    summary.write_text("earlier\n")

    def run() -> int:
        environ = {"GITHUB_STEP_SUMMARY": str(summary), "PATH": "/usr/bin:/bin"}
        command = ["bash", "-e", "-c", step["run"]]
        return subprocess.run(command, cwd=tmp_path, env=environ, check=False).returncode

    assert (run(), summary.read_text()) == (0, "earlier\n")
    (tmp_path / "report" / "vision").mkdir(parents=True)
    (tmp_path / "report" / "vision" / "gate.md").write_text("## bench\n")
    assert (run(), summary.read_text()) == (0, "earlier\n## bench\n")


def test_the_cron_line_has_five_fields_and_a_command_that_a_shell_reads():
    fields = cron_line().split(" ", 5)
    assert all(re.fullmatch(r"\d+|\*", field) for field in fields[:5])
    # To cron a percent sign is a line break.
    assert "%" not in fields[5]
    assert subprocess.run(["sh", "-n", "-c", fields[5]], check=False).returncode == 0
