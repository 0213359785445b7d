"""Which event classes SQL can read: those that pydantic validates by nothing but what is understood."""

from __future__ import annotations

import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    computed_field,
    field_validator,
    model_validator,
)

from sequent_py import Event, upcaster
from sequent_py.declared.payloads import Inexpressible, payload_fields


class Color(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Inner(BaseModel):
    x: int


class Understood(Event):
    model_config = ConfigDict(title="Something")
    i: Annotated[int, Field(gt=0, le=9)]
    d: Annotated[Decimal, Field(max_digits=9, decimal_places=2)] = Decimal("1.50")
    s: Annotated[str, Field(min_length=1, max_length=9)] = "x"
    n: str | None = None
    b: bool = False
    u: UUID
    day: date
    at: datetime
    aware: AwareDatetime
    f: float = 0.5
    c: Color = Color.RED
    lit: Literal["a", "b"] = "a"
    anything: Any = None
    made: int = Field(default_factory=lambda: 7)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.i * 2


def test_what_is_understood_is_read() -> None:
    fields = payload_fields(Understood)
    assert set(fields) == set(Understood.model_fields)
    assert (fields["d"].default, fields["s"].default, fields["n"].default) == ("1.50", "x", None)
    assert (fields["made"].is_default_known, fields["f"].is_default_known) == (False, False)
    assert fields["c"].labels == ("red",)
    assert (fields["at"].kind, fields["aware"].kind) == ("datetime", "aware")


class SeveralOfOneEnum(Event):
    a: Color
    b: Color = Color.RED
    c: Color | None = None


def test_an_enum_of_several_fields_is_read_like_that_of_one() -> None:
    fields = payload_fields(SeveralOfOneEnum)
    assert {field.labels for field in fields.values()} == {("red",)}
    assert (fields["b"].default, fields["c"].is_nullable, fields["c"].default) == ("red", True, None)


class Upcast(Event):
    @upcaster
    @staticmethod
    def old(payload: dict[str, Any]) -> dict[str, Any]:
        return payload


class FieldValidated(Event):
    x: int

    @field_validator("x")
    @classmethod
    def doubled(cls, value: int) -> int:
        return value * 2


class ModelValidated(Event):
    x: int

    @model_validator(mode="after")
    def checked(self) -> ModelValidated:
        return self


class ValidatedBefore(Event):
    x: int

    @model_validator(mode="before")
    @classmethod
    def changed(cls, values: Any) -> Any:
        return values


class Annotations(Event):
    x: Annotated[int, AfterValidator(abs)]


class Aliased(Event):
    x: int = Field(alias="y")


class Stripped(Event):
    x: Annotated[str, StringConstraints(strip_whitespace=True)]


class Member(Event):
    x: Literal[Color.RED]


class Patterned(Event):
    x: Annotated[str, Field(pattern="a+")]


class Configured(Event):
    model_config = ConfigDict(str_strip_whitespace=True)
    x: str


class EnumValues(Event):
    model_config = ConfigDict(use_enum_values=True)
    x: Color


class Listed(Event):
    x: list[int]


class Nested(Event):
    x: Inner


class OfNumbers(Event):
    x: Number


class United(Event):
    x: int | str


class Multiples(Event):
    x: Annotated[int, Field(multiple_of=2)]


class PostInit(Event):
    x: int

    def model_post_init(self, context: Any) -> None:
        pass


class Private(Event):
    _x: int = PrivateAttr(default=1)


class Initialized(Event):
    x: int

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)


class Recursive(Event):
    x: Recursive | None = None


@pytest.mark.parametrize(
    "event_class",
    [Upcast, FieldValidated, ModelValidated, ValidatedBefore, Annotations, Aliased, Stripped, Patterned, Configured, EnumValues, Member, Listed, Nested,
     OfNumbers, United, Multiples, PostInit, Private, Initialized, Recursive],
)  # fmt: skip
def test_everything_else_is_left_to_handlers(event_class: type[Event]) -> None:
    with pytest.raises(Inexpressible, match=event_class.__name__):
        payload_fields(event_class)
