"""Names of datasets that are places -> what follows the prefix; looks at no file."""

from bench.errors import DatasetError


def named_place(name: str, prefix: str, example: str) -> str:
    """Return what follows the prefix in a dataset's name.

    Args:
        name: As in the suite.
        prefix: Of the source, with its separator: ``folder:``.
        example: A right name, for the message.

    Raises:
        DatasetError: Another separator follows the source, or nothing does.
    """
    place = name.removeprefix(prefix)
    if place == name or not place.strip():
        raise DatasetError(f"'{name}' names no place: write {prefix} and a place, as {example}.")
    return place
