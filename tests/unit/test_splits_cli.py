"""`bench splits export`: a file per dataset, without torch."""

import json
import subprocess
import sys
from pathlib import Path

SUITE = """\
name: two
backbones: [plain/pixels]
datasets:
  - {name: digits, folds: 3}
  - {name: digits, shots: [1, 5]}
strategies: [{name: knn, k: 1, temperature: 0.07}]
seeds: [0, 3]
"""
COMMAND = """\
import sys
from bench.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


def export(folder: Path, suite: str) -> subprocess.CompletedProcess[str]:
    (folder / "s.yaml").write_text(suite)
    arguments = ["splits", "export", "s.yaml", "-o", "out"]
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_dataset_of_a_suite_is_a_file_with_its_draws(tmp_path: Path) -> None:
    done = export(tmp_path, SUITE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "out/digits-3-folds.json: digits (3 folds), 6 draws",
        "out/digits-1-shots.json: digits (1 shots), 2 draws",
        "out/digits-5-shots.json: digits (5 shots), 2 draws",
    ]
    folds = json.loads((tmp_path / "out" / "digits-3-folds.json").read_text())
    assert (folds["version"], folds["dataset"], folds["split_seed"]) == (1, "digits", 0)
    assert [(each["seed"], each["fold"]) for each in folds["draws"]] == [
        (seed, fold) for seed in (0, 3) for fold in range(3)
    ]
    tested = [id_ for each in folds["draws"][:3] for id_ in each["test"]]
    assert len(tested) == len(set(tested)) == 1797


def test_splits_that_cannot_be_drawn_are_an_error_of_the_command(tmp_path: Path) -> None:
    done = export(tmp_path, SUITE.replace("shots: [1, 5]", "train_examples: 5000"))
    assert done.returncode == 2
    assert done.stderr == (
        "error: digits: train_examples: 5000 asked, 1438 available beside the test split. Lower "
        "it, or leave it out to take all.\n"
    )
