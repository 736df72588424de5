"""Artifacts: made once, whole or not at all, accounted for; with real files and processes."""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from bench.artifacts import ArtifactCache, RowArray, _read_at, _write_at
from bench.errors import ArtifactError
from bench.files import write_atomically


def squares(rows: np.ndarray) -> np.ndarray:
    return np.stack([rows, rows**2], axis=1).astype(np.float32)


def open_rows(root: Path, num_rows: int = 10) -> RowArray:
    return ArtifactCache(root).rows("squares", {"of": 1}, shape=(num_rows, 2), dtype="float32")


def test_rows_are_made_once_and_read_in_the_order_asked(tmp_path: Path) -> None:
    made: list[int] = []

    def make(rows: np.ndarray) -> np.ndarray:
        made.extend(rows.tolist())
        return squares(rows)

    array = open_rows(tmp_path)
    wanted = np.array([7, 2, 3, 2])
    assert array.count_missing(wanted) == len(set(wanted.tolist()))
    array.ensure(wanted, make)
    assert array.count_missing(wanted) == 0
    array.ensure(np.array([3, 8]), make)
    assert array.read(wanted).tolist() == [[7, 49], [2, 4], [3, 9], [2, 4]]
    assert made == [2, 3, 7, 8]


def test_another_process_finds_the_rows_without_making_them(tmp_path: Path) -> None:
    def refuse(rows: np.ndarray) -> np.ndarray:
        raise AssertionError(f"made again: {rows}")

    open_rows(tmp_path).ensure(np.arange(10), squares)
    again = open_rows(tmp_path)
    again.ensure(np.arange(10), refuse)
    assert again.read(np.arange(9, -1, -1)).tolist() == squares(np.arange(9, -1, -1)).tolist()


def test_rows_never_made_are_not_read_as_zeros(tmp_path: Path) -> None:
    array = open_rows(tmp_path)
    array.ensure(np.array([1]), squares)
    with pytest.raises(ArtifactError, match="not made"):
        array.read(np.array([1, 2]))


def test_rows_of_the_wrong_shape_are_refused_and_stay_absent(tmp_path: Path) -> None:
    array = open_rows(tmp_path)
    with pytest.raises(ArtifactError, match=r"rows of shape \(3,\), expected \(2,\)"):
        array.ensure(np.array([0]), lambda rows: np.zeros((len(rows), 3), np.float32))
    with pytest.raises(ArtifactError, match="not made"):
        array.read(np.array([0]))


def test_a_maker_that_fails_leaves_earlier_chunks_and_no_lock(tmp_path: Path) -> None:
    array = open_rows(tmp_path)
    array.ensure(np.array([0]), squares)

    def fail(rows: np.ndarray) -> np.ndarray:
        raise ValueError("disk unplugged")

    with pytest.raises(ValueError, match="disk unplugged"):
        array.ensure(np.array([0, 1]), fail)
    array.ensure(np.array([0, 1]), squares)
    assert array.read(np.array([0, 1])).tolist() == [[0, 0], [1, 1]]


def test_an_array_of_another_length_is_not_mixed_in(tmp_path: Path) -> None:
    array = open_rows(tmp_path)
    rows = next(tmp_path.rglob("rows"))
    rows.write_bytes(b"123")
    with pytest.raises(ArtifactError, match="has 3 bytes, not 80: delete its folder"):
        open_rows(tmp_path)
    assert array.num_rows == 10


def test_a_truncated_file_is_an_error_and_not_garbage(tmp_path: Path) -> None:
    array = open_rows(tmp_path)
    array.ensure(np.arange(10), squares)
    os.truncate(next(tmp_path.rglob("rows")), 40)
    with pytest.raises(ArtifactError, match="ends at byte 40, 40 bytes too early"):
        array.read(np.arange(10))


def test_absent_rows_take_no_disk(tmp_path: Path) -> None:
    ArtifactCache(tmp_path).rows("images", {}, shape=(1000, 1 << 20), dtype="uint8")
    rows = next(tmp_path.rglob("rows")).stat()
    assert rows.st_size == 1000 << 20
    assert rows.st_blocks * 512 < 1 << 20


def test_bytes_are_written_and_read_at_their_offset(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        _write_at(file.fileno(), memoryview(b"abc"), 4)
        out = bytearray(3)
        _read_at(file.fileno(), memoryview(out), 4)
    assert bytes(out) == b"abc"
    assert path.read_bytes() == b"\0\0\0\0abc\0"


def test_the_ledger_tells_what_was_paid_from_what_was_reused(tmp_path: Path) -> None:
    first = ArtifactCache(tmp_path)
    first.json("plan", {"a": 1}, lambda: 5)
    second = ArtifactCache(tmp_path)
    assert second.json("plan", {"a": 1}, lambda: 6) == 5
    (built,), (reused,) = first.ledger.uses(), second.ledger.uses()
    assert (built.built, reused.built) == (True, False)
    assert built.digest == reused.digest
    assert reused.seconds == built.seconds > 0


def test_reused_rows_cost_their_share(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    array = cache.rows("squares", {"of": 1}, shape=(10, 2), dtype="float32")
    array.ensure(np.arange(10), squares)
    (built,) = cache.ledger.uses()
    again = ArtifactCache(tmp_path)
    reader = again.rows("squares", {"of": 1}, shape=(10, 2), dtype="float32")
    reader.ensure(np.arange(5), squares)
    reader.ensure(np.arange(5), squares)
    (reused,) = again.ledger.uses()
    assert not reused.built
    assert reused.seconds == pytest.approx(built.seconds / 2)


def test_a_run_bound_artifact_is_made_again_by_another_run(tmp_path: Path) -> None:
    values = iter((1, 2))
    runs = [ArtifactCache(tmp_path, run_scope=scope) for scope in ("a", "b", "a")]
    got = [cache.json("profile", {}, lambda: next(values), run_bound=True) for cache in runs]
    assert got == [1, 2, 1]


def test_a_key_cannot_pose_as_another_kind(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    assert cache.json("a", {}, lambda: 1) == 1
    assert cache.json("b", {"kind": "a"}, lambda: 2) == 2
    assert cache.json("a", {"kind": "b"}, lambda: 3) == 3


def test_a_damaged_value_is_named(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    cache.json("plan", {}, lambda: 1)
    next(tmp_path.rglob("value.json")).write_text("{")
    with pytest.raises(ArtifactError, match=r"value\.json is damaged: .* Delete its folder"):
        cache.json("plan", {}, lambda: 1)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(ArtifactError, match=r"cannot write .*folder: Is a directory"):
        write_atomically(target, b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    write_atomically(tmp_path / "file", b"y")
    assert (tmp_path / "file").read_bytes() == b"y"
    assert len(list(tmp_path.iterdir())) == 2


def _make_and_log(root: str, log: str) -> None:
    def make(rows: np.ndarray) -> np.ndarray:
        with Path(log).open("a") as file:
            file.writelines(f"{row}\n" for row in rows)
        return squares(rows)

    open_rows(Path(root), 200).ensure(np.arange(200), make)


def test_processes_that_want_the_same_rows_make_them_once(tmp_path: Path) -> None:
    log = tmp_path / "made.txt"
    context = multiprocessing.get_context("spawn")
    arguments = (str(tmp_path / "cache"), str(log))
    workers = [context.Process(target=_make_and_log, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(map(int, log.read_text().split())) == list(range(200))


def test_the_key_lies_beside_the_array_for_people_to_read(tmp_path: Path) -> None:
    open_rows(tmp_path)
    assert json.loads(next(tmp_path.rglob("key.json")).read_text()) == {"of": 1}
