"""The example package as pip installs it, in a sweep of a process that has it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits

from bench.artifacts import ArtifactCache
from bench.errors import DatasetError, StrategyError
from bench.interfaces import Split
from bench.spec import BackboneSpec, DatasetSpec
from bench.strategies.features import extract_features
from tests.plugin_folders import EXAMPLE, bench_with, install_example, write_plugin
from tests.training import make_task

SUITE = """\
name: example
backbones: [random-filters/64, plain/pixels]
datasets: [npz:images.npz, {name: digits, train_examples: 200}]
strategies: [lda, {name: nearest_centroid, metric: cosine}]
image_size: 8
exclude:
  - {dataset: digits, strategy: lda}
  - {dataset: digits, backbone: "random-filters/*"}
limits: {profile_time: 0.1s}
"""
"""Four cells that take something from the example, and one that takes nothing."""

BUILT_INS = """\
name: built-ins
backbones: [plain/pixels]
datasets: [{name: digits, train_examples: 200}]
strategies: [{name: nearest_centroid, metric: cosine}]
image_size: 8
limits: {profile_time: 0.1s}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where the example is installed."""
    return install_example(tmp_path_factory.mktemp("example"))


def write_files(folder: Path) -> None:
    digits = load_digits()
    images = (digits.images * 15.9).astype(np.uint8)
    labels = digits.target.astype(np.uint8)[:, None]
    np.savez(
        folder / "images.npz",
        train_images=images[:300],
        train_labels=labels[:300],
        test_images=images[300:400],
        test_labels=labels[300:400],
    )
    (folder / "example.yaml").write_text(SUITE)


def test_a_strategy_a_dataset_and_a_backbone_of_another_package_run_in_a_suite(
    site, tmp_path, tmp_path_factory
):
    write_files(tmp_path)
    done = bench_with(site, "run", "example.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "run 1: 5 cells run" in done.stdout
    rows = read_rows(site, tmp_path)
    own = [row for row in rows if row["backbone"] == "random-filters/64"]
    assert {(row["dataset"], row["strategy"]) for row in own} == {
        ("npz:images.npz", "lda"),
        ("npz:images.npz", "nearest_centroid"),
    }
    assert min(row["test_accuracy"] for row in own) > 0.7
    assert all("bench-example 1.0" in row["versions"] for row in own)
    (alone,) = (row for row in rows if row["dataset"] == "digits")
    assert "bench-example" not in alone["versions"]

    again = bench_with(site, "run", "example.yaml", folder=tmp_path)
    assert "run 1: 0 cells run, 5 held from before" in again.stdout

    upgraded = install_example(tmp_path_factory.mktemp("upgraded"), version="1.1")
    anew = bench_with(upgraded, "run", "example.yaml", folder=tmp_path)
    assert "run 1: 4 cells run, 1 held from before" in anew.stdout, anew.stdout
    versions = [row["versions"] for row in read_rows(site, tmp_path)]
    assert sum("bench-example 1.1" in text for text in versions) == 4


def read_rows(site: Path, folder: Path) -> list[dict]:
    return json.loads(bench_with(site, "table", "--format", "json", folder=folder).stdout)


def test_the_example_is_listed_and_the_doctor_says_whose_it_is(site, tmp_path):
    listed = bench_with(site, "list", "strategies", "lda", folder=tmp_path).stdout
    assert listed == "lda  linear discriminants on frozen features, in closed form, without val\n"
    assert "random-filters/256\n" in bench_with(site, "list", "backbones", folder=tmp_path).stdout
    told = bench_with(site, "doctor", folder=tmp_path).stdout
    assert "  strategies lda            bench-example 1.0: ready\n" in told


def test_broken_plugins_do_not_keep_others_from_running(tmp_path):
    site = tmp_path / "site"
    points = "[bench.{kind}]\n{name} = shattered:Thing\n"
    for number, (kind, name) in enumerate(
        [("strategies", "first"), ("backbones", "second"), ("datasets", "third")]
    ):
        written = points.format(kind=kind, name=name)
        module = {"shattered": "raise OSError('gone')"}
        write_plugin(site, f"shattered-{number}", points=written, modules=module)
    write_plugin(site, "bold", points="[bench.strategies]\nfull = shattered:Thing\n")
    (tmp_path / "built-ins.yaml").write_text(BUILT_INS)
    done = bench_with(site, "run", "built-ins.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run 1: 1 cell run" in done.stdout
    told = bench_with(site, "doctor", folder=tmp_path).stdout
    for what in (
        "strategies first  shattered-0 1.0: broken",
        "strategies full   bold 1.0: not used",
        "warning: plugin 'second' (shattered:Thing, entry point bench.backbones, distribution "
        "shattered-1 1.0) does not load: OSError: gone. Fix or uninstall it.\n"
        "  Suites that do not use it run as ever.",
    ):
        assert what in told


def test_entry_points_that_no_one_can_read_are_one_message(tmp_path):
    site = tmp_path / "site"
    write_plugin(site, "damaged", points=b"[console_scripts]\n\xff\n")
    done = bench_with(site, "list", "strategies", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: the entry points of distribution damaged cannot be read (UnicodeDecodeError: "
    )
    assert done.stderr.count("\n") == 1


@pytest.fixture
def example(monkeypatch) -> None:
    """The sources of the example can be imported."""
    monkeypatch.syspath_prepend(str(EXAMPLE))


@pytest.mark.parametrize("priors", ["train", "uniform"])
def test_lda_ranks_classes_by_their_gaussian_densities(example, priors):
    from bench_example.lda import Lda, LdaSpec

    task = make_task(num_train=60, num_val=None)
    task = replace(task, train=take(task.train, np.flatnonzero(task.train.labels > 0)[:30]))
    adapted = Lda().adapt(task, LdaSpec(priors=priors))
    logits = adapted.predict(task.train).double().numpy()
    features = extract_features(task.backbone, task.train, task.runtime).double().numpy()
    labels = task.train.labels
    means = np.stack([features[labels == k].mean(0) for k in range(3)])
    covariance = LedoitWolf(assume_centered=True).fit(features - means[labels]).covariance_
    counts = np.bincount(labels) if priors == "train" else np.ones(3)
    expected = np.stack(
        [
            multivariate_normal(means[k], covariance).logpdf(features)
            + np.log(counts[k] / counts.sum())
            for k in range(3)
        ],
        axis=1,
    )
    np.testing.assert_allclose(softmax(logits, 1), softmax(expected, 1), atol=1e-4)


def take(split: Split, rows: np.ndarray) -> Split:
    """Return some rows of a split and, for a class of few, the first five of class 0."""
    rows = np.concatenate([rows, np.flatnonzero(split.labels == 0)[:5]])
    ids = tuple(split.ids[row] for row in rows)
    return Split(split.name, ids, split.labels[rows], split.pool, split.rows[rows], "some")


def test_lda_refuses_a_class_without_train_examples(example):
    from bench_example.lda import Lda, LdaSpec

    task = replace(make_task(num_val=None), num_classes=4)
    with pytest.raises(StrategyError, match="lda: 1 classes have no train example"):
        Lda().adapt(task, LdaSpec())


def test_random_filters_are_the_same_for_every_seed_unless_asked_otherwise(example):
    from bench_example.random_filters import RandomFilterSource

    source = RandomFilterSource()

    def digest(seed: int, **fields: str) -> str:
        spec = BackboneSpec(name="random-filters/64", **fields)
        return source.load(spec, image_size=16, seed=seed).info.weights_digest

    assert digest(0) == digest(1)
    assert digest(1, weights="random") != digest(2, weights="random")
    wrong = BackboneSpec(name="random-filters/65", weights="random")
    assert source.check(wrong) == (
        "random-filters/65: known are random-filters/256, random-filters/64, without checkpoint "
        "or revision."
    )


def test_npz_says_what_does_not_fit(example, tmp_path):
    from bench_example.npz import NpzSource

    path = tmp_path / "x.npz"
    spec = DatasetSpec(name=f"npz:{path}")
    assert NpzSource().check(spec) == f"{spec.name}: there is no file {path}."
    assert "put it at" in NpzSource().locate(spec).missing[0].how
    cache = ArtifactCache(tmp_path / "cache")
    np.savez(path, images=np.zeros(3))
    with pytest.raises(DatasetError, match="there is no array train_images in"):
        NpzSource().load(spec, cache)
    many = np.zeros((3, 14), dtype=np.uint8)
    np.savez(path, train_images=np.zeros((3, 8, 8), dtype=np.uint8), train_labels=many)
    with pytest.raises(DatasetError, match=r"train: not uint8 images and a label each: .*3, 14"):
        NpzSource().load(spec, cache)
