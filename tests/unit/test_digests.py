"""Digests of values, strings and files, and the stamps that stand for files."""

from pathlib import Path

import pytest

from bench.digests import digest_file, digest_strings, digest_value, stamp_files


def test_the_order_of_keys_does_not_matter_and_that_of_items_does() -> None:
    assert digest_value({"a": 1, "b": 2}) == digest_value({"b": 2, "a": 1})
    assert digest_value([1, 2]) != digest_value([2, 1])


def test_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_value(float("nan"))


def test_strings_are_kept_apart() -> None:
    assert digest_strings(["ab", "c"]) != digest_strings(["a", "bc"])


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    assert digest_file(tmp_path / "a") == digest_file(tmp_path / "b")


def test_what_cannot_be_looked_at_has_a_stamp_too(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"123")
    stamps = stamp_files([file, tmp_path / "absent", file / "below a file"])
    assert [size for size, _ in stamps.values()] == [3, -1, -1]
