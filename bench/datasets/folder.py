"""``folder:<path>``: images or clips in class folders, with or without split folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.datasets.extras import READERS, missing_extra
from bench.datasets.parts import conflicting_request
from bench.datasets.places import named_place
from bench.datasets.raw import assemble_dataset, refuse_corrupt
from bench.datasets.tree import Tree, find_modality, scan_tree
from bench.errors import DatasetError
from bench.interfaces import Located, Missing, Modality, RawDataset
from bench.spec import DatasetSpec

if TYPE_CHECKING:
    from bench.artifacts import ArtifactCache
    from bench.datasets.files import ImageFile


class FolderSource:
    """``folder:~/photos``: one sub-folder per class, see `scan_tree` for the layouts."""

    prefix: ClassVar[str] = "folder"

    def names(self) -> Sequence[str]:
        """Return nothing: any path is a name."""
        return ()

    def check(self, spec: DatasetSpec) -> str | None:
        """Return what is wrong with the spec or with the layout of its folder, or None."""
        if problem := conflicting_request(spec):
            return problem
        try:
            tree = scan_tree(_root(spec))
        except DatasetError as error:
            return str(error)
        return missing_extra(tree.modality)

    def modality(self, spec: DatasetSpec) -> Modality:
        """Return what the folder holds; image where there is nothing."""
        try:
            return find_modality(_root(spec)) or "image"
        except DatasetError:
            return "image"

    def locate(self, spec: DatasetSpec) -> Located:
        """Return every file; a folder that cannot be used is missing."""
        try:
            tree = scan_tree(_root(spec))
        except DatasetError as error:
            return Located(
                missing=(Missing(f"data of {spec.name}", str(error), downloadable=False),)
            )
        files = tuple(tree.root / name for part in tree.files.values() for name, _ in part)
        return Located(files=files, packages=READERS[tree.modality])

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the readable images or clips; ids are paths relative to the folder.

        Raises:
            DatasetError: The layout is not understood, more is corrupt than the spec allows, or the
                package that reads the files is not installed.
        """
        # What decodes stays out of the parent process, which only checks and locates.
        from bench.datasets.files import check_files, file_examples, file_format

        tree = scan_tree(_root(spec))
        how = file_format(tree.modality)
        files = {part: _listed_files(tree, part) for part in tree.files}
        every = [file for part in files.values() for file in part]
        checked = check_files(every, cache, how)
        refuse_corrupt(tree.root, checked.unreadable, len(every), spec.max_corrupt_fraction)
        return assemble_dataset(
            spec.name,
            tree.class_names,
            {part: file_examples(listed, checked, how) for part, listed in files.items()},
            corrupt=list(checked.unreadable),
        )


def _listed_files(tree: Tree, part: str) -> list[ImageFile]:
    from bench.datasets.files import ImageFile

    return [ImageFile(name, tree.root / name, label) for name, label in tree.files[part]]


def _root(spec: DatasetSpec) -> Path:
    return Path(named_place(spec.name, "folder:", "folder:~/photos")).expanduser()
