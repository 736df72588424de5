"""Folders with installed plugins: the example as pip installs it, and broken ones written here."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent / "plugins" / "example"
_ROOT = EXAMPLE.parents[2]


def install_example(folder: Path, version: str = "1.0") -> Path:
    """Install the example package with pip, without a network, and return where it lies.

    Args:
        folder: New; takes a copy of the sources, since a build leaves files beside them.
        version: Put in place of the one it has.
    """
    source, site = folder / "source", folder / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    project = source / "pyproject.toml"
    text, count = re.subn(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text())
    assert count == 1
    project.write_text(text)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(site))
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


def write_plugin(
    site: Path,
    name: str,
    *,
    points: str | bytes,
    modules: Mapping[str, str] | None = None,
    version: str = "1.0",
) -> None:
    """Write a distribution with entry points and modules, as an installer leaves it."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    data = points if isinstance(points, bytes) else points.encode()
    (info / "entry_points.txt").write_bytes(data)
    for module, text in (modules or {}).items():
        (site / f"{module}.py").write_text(text)


def bench_with(
    site: Path, *arguments: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run bench in a folder, with what lies in a site folder installed."""
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(site), str(_ROOT))),
        "BENCH_CACHE": str(folder / "cache"),
        "BENCH_PRELOAD": "torch",  # All that its cells need.
        **variables,
    }
    environ.pop("BENCH_STORE", None)
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
