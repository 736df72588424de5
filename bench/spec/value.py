"""What every spec is made of: frozen models, names, grids; knows no axis and no suite."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
Grid = Annotated[tuple[T, ...], Field(min_length=1)]
"""Values tried inside one cell, chosen on val; such a field is typed ``T | Grid[T]``."""


def grid_values(field: T | tuple[T, ...]) -> tuple[T, ...]:
    """Return the values of a field typed ``T | Grid[T]``, one or several."""
    return field if isinstance(field, tuple) else (field,)


class Frozen(BaseModel):
    """A value: immutable, comparable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Named(Frozen):
    """A mapping with a name, for which the bare name may stand; numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data
