"""Payloads in SQL: which fields of an event class the server can check and read exactly as the decoder does.

What the decoder does is pydantic's core schema: a tree in which every constraint, validator and default shows. It is read by a list of
what is understood; anything else makes the class :class:`Inexpressible`.

Checks are of the form in which the library stores values: a number for an int, a UUID of 36 characters, a time in ISO format. What they let pass,
pydantic takes and PostgreSQL reads as the same value. What they do not may still be valid (``"12"`` for an int): then the group goes to the handlers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from psycopg import sql

from sequent_py.events import Event
from sequent_py.upcasting import upcasters_of


class Inexpressible(Exception):
    """Something that SQL cannot do as handlers would; says what and why."""


Definitions = Mapping[str, Mapping[str, Any]]
"""Schemas that others refer to, by reference."""
REQUIRED: Final = "required"
"""A payload without the field is not valid."""

_MODEL_KEYS = frozenset({"type", "cls", "config", "custom_init", "metadata", "ref", "root_model", "schema", "frozen", "post_init", "strict", "extra_behavior", "serialization"})  # fmt: skip
_HARMLESS_CONFIG = frozenset({"title", "extra_fields_behavior", "ser_json_bytes", "ser_json_inf_nan", "ser_json_temporal", "ser_json_timedelta", "val_json_bytes", "frozen", "hide_input_in_errors", "serialize_by_alias"})  # fmt: skip
_ANNOTATIONS = frozenset({"type", "metadata", "serialization", "ref"})
_LIMITS: Mapping[str, sql.SQL] = {
    "gt": sql.SQL(">"),
    "ge": sql.SQL(">="),
    "lt": sql.SQL("<"),
    "le": sql.SQL("<="),
}

_DATE = "(?!0000|0001|9999)[0-9]{4}-[0-9]{2}-[0-9]{2}"
"""Without the first and the last year, which another time zone takes out of Python's range."""
_TIME = "T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?"
_ZONE = "(Z|[+-](0[0-9]|1[0-5]):[0-5][0-9])"

JSON_TYPES: Mapping[str, str] = {
    "int": "number", "float": "number", "str": "string", "bool": "boolean", "uuid": "string", "date": "string", "aware": "string",
    "naive": "string", "datetime": "string", "decimal": "string",
}  # fmt: skip
SQL_TYPES: Mapping[str, sql.SQL] = {
    "int": sql.SQL("bigint"), "float": sql.SQL("double precision"), "str": sql.SQL("text"), "bool": sql.SQL("boolean"),
    "uuid": sql.SQL("uuid"), "date": sql.SQL("date"), "aware": sql.SQL("timestamptz"), "naive": sql.SQL("timestamp"),
    "decimal": sql.SQL("numeric"), "datetime": sql.SQL("timestamp"),
}  # fmt: skip
_FORMS: Mapping[str, str] = {
    "date": f"^{_DATE}$",
    "aware": f"^{_DATE}{_TIME}{_ZONE}$",
    "naive": f"^{_DATE}{_TIME}$",
    "datetime": f"^{_DATE}{_TIME}{_ZONE}?$",
    "decimal": "^-?[0-9]{1,200}([.][0-9]{1,200})?$",
}
_UUID_FORM = "________-____-____-____-____________"
"""Characters elsewhere than the hyphens are hexadecimal, or the cast fails."""


@dataclass(frozen=True)
class PayloadField:
    """A field of a payload: how to read it, and when that is what the decoder would have read."""

    name: str
    kind: str
    """A key of ``SQL_TYPES``; ``datetime`` until somebody says whether ``aware`` or ``naive`` is wanted; ``any``."""
    is_nullable: bool = False
    default: Any = REQUIRED
    """The text of what stands for a field that is not stored, or None."""
    is_default_known: bool = True
    limits: tuple[tuple[str, int | Decimal], ...] = ()
    lengths: tuple[int | None, int | None] = (None, None)
    digits: tuple[int | None, int | None] = (None, None)
    """At most so many in all, and after the point."""
    labels: tuple[str, ...] | None = None
    enum: type[Enum] | None = None

    @property
    def can_be_none(self) -> bool:
        """Whether None is a value of the field, or its default."""
        return self.is_nullable or self.default is None

    def text(self) -> sql.Composable:
        """Return the field's text, its default where it is not stored; NULL for None."""
        text = sql.SQL("e.payload->>{}").format(sql.Literal(self.name))
        if self.default is REQUIRED or self.default is None or not self.is_default_known:
            return text
        return sql.SQL("CASE WHEN e.payload ? {} THEN {} ELSE {} END").format(
            sql.Literal(self.name), text, sql.Literal(self.default)
        )

    def is_plain(self, kind: str) -> sql.Composable | None:
        """Return the condition that the stored JSON is in the library's form, as far as the payload must be asked; None where :meth:`is_plain_text` tells.

        False or NULL where it is not.
        """
        if self._is_told_by_text(kind):
            return None
        json = sql.SQL("e.payload->{}").format(sql.Literal(self.name))
        if self.kind == "any":
            return sql.SQL("({}) IS NOT NULL").format(json) if self.default is REQUIRED else None
        kinds = [JSON_TYPES[kind], *(["null"] if self.is_nullable else [])]
        test: sql.Composable = sql.SQL("jsonb_typeof({}) IN ({})").format(
            json, sql.SQL(", ").join(sql.Literal(item) for item in kinds)
        )
        if self.default is not REQUIRED and self.is_default_known:
            test = sql.SQL("(({}) IS NULL OR {})").format(json, test)
        form = self._form(kind)
        return test if form is None else sql.SQL("{} AND {}").format(test, form)

    def is_plain_text(self, kind: str, text: sql.Composable, value: sql.Composable) -> sql.Composable | None:
        """Return the condition that a field's text is that of its value and no other one's; None where :meth:`is_plain` tells."""
        if not self._is_told_by_text(kind):
            return None
        if kind == "uuid":
            # Nothing but a string has this form: an object or an array of 36 characters would fail the cast.
            return sql.SQL("{} LIKE {}").format(text, sql.Literal(_UUID_FORM))
        # No blanks, no underscores, no 0x10, which the server reads otherwise, or not at all, than the decoder. Whether the JSON was a number or
        # a string of these digits makes no difference to either; and a look at its type costs more.
        return sql.SQL("{}::text = {}").format(value, text)

    def bounds(self) -> tuple[int, int] | None:
        """Return the least and the most value of a whole number that its text tells, within 64 bits; zeros for a UUID, None for all else."""
        if not self._is_told_by_text(self.kind):
            return None
        least, most = -(2**63), 2**63 - 1
        for name, bound in self.limits:
            number = int(bound)
            if name in ("gt", "ge"):
                least = max(least, number + (name == "gt"))
            else:
                most = min(most, number - (name == "lt"))
        is_possible = least <= most and all(isinstance(bound, int) for _, bound in self.limits)
        if self.kind == "uuid":
            return 0, 0
        return (least, most) if is_possible else None

    def _is_told_by_text(self, kind: str) -> bool:
        return kind in ("int", "uuid") and self.default is REQUIRED and not self.is_nullable

    def _form(self, kind: str) -> sql.Composed | None:
        text = sql.SQL("(e.payload->>{})").format(sql.Literal(self.name))
        tests: list[sql.Composable] = []
        if kind in _FORMS:
            tests.append(sql.SQL("{} ~ {}").format(text, sql.Literal(_FORMS[kind])))
        if kind == "uuid":
            tests.append(sql.SQL("{} LIKE {}").format(text, sql.Literal(_UUID_FORM)))
        if self.labels is not None:
            tests.append(
                sql.SQL("{} IN ({})").format(text, sql.SQL(", ").join(map(sql.Literal, self.labels)))
            )
        for bound, operator in zip(self.lengths, (sql.SQL(">="), sql.SQL("<=")), strict=True):
            if bound is not None:
                tests.append(sql.SQL("char_length({}) {} {}").format(text, operator, sql.Literal(bound)))
        if not tests:
            return None
        every = sql.SQL(" AND ").join(tests)
        is_optional = self.can_be_none or self.default is not REQUIRED
        return sql.SQL("({} IS NULL OR ({}))").format(text, every) if is_optional else every

    def is_valid(self, value: sql.Composable) -> sql.Composed:
        """Return the condition that a value, already of its SQL type, is within the field's limits. Looking at it is what makes a cast happen."""
        tests: list[sql.Composable] = [
            sql.SQL("{} {} {}").format(value, _LIMITS[name], sql.Literal(bound))
            for name, bound in self.limits
        ]
        most, places = self.digits
        if places is not None:
            tests.append(sql.SQL("scale({}) <= {}").format(value, sql.Literal(places)))
        if most is not None:
            # As many before the point as are left when all places after it are used, which is never more than pydantic allows.
            tests.append(
                sql.SQL("abs({}) < {}").format(value, sql.Literal(Decimal(10) ** (most - (places or 0))))
            )
            if places is None:
                tests.append(sql.SQL("scale({}) = 0").format(value))
        tests = tests or [sql.SQL("{} IS NOT NULL").format(value)]
        every = sql.SQL(" AND ").join(tests)
        return sql.SQL("({} IS NULL OR ({}))").format(value, every) if self.can_be_none else every

    @property
    def must_be_cast(self) -> bool:
        """Whether only a cast can tell if the text is valid, read or not."""
        return (
            self.kind in ("int", "uuid", "date", "datetime", "aware", "naive")
            or bool(self.limits)
            or self.digits != (None, None)
        )


def payload_fields(event_class: type[Event]) -> Mapping[str, PayloadField]:
    """Return the fields of a class's payload.

    Raises
    ------
    Inexpressible
        The server cannot tell which payloads are valid, or what they mean.
    """
    name = event_class.__name__
    if upcasters_of(event_class):
        raise Inexpressible(f"{name} has an upcaster")
    if not event_class.__pydantic_complete__:
        event_class.model_rebuild()
    schema: Any = event_class.__pydantic_core_schema__
    shared: Definitions = {}
    if schema["type"] == "definitions":
        shared = {item["ref"]: item for item in schema["definitions"]}
        schema = _followed(name, schema["schema"], shared)
    _refuse_odd_model(name, event_class, schema)
    return {
        field: _field(f"{name}.{field}", field, item, shared)
        for field, item in schema["schema"]["fields"].items()
    }


def _followed(where: str, schema: Mapping[str, Any], shared: Definitions) -> Mapping[str, Any]:
    """Return what a schema refers to: an enum that several fields have is defined once."""
    if schema["type"] != "definition-ref":
        return schema
    _refuse_others(where, schema, {"schema_ref"})
    return shared[schema["schema_ref"]]


def _refuse_odd_model(name: str, event_class: type[Event], schema: Any) -> None:
    if (
        schema["type"] != "model"
        or schema["cls"] is not event_class
        or schema["schema"]["type"] != "model-fields"
    ):
        raise Inexpressible(f"{name} has validators of its own")
    odd = {key for key in schema if key not in _MODEL_KEYS} | {
        key for key in ("custom_init", "root_model", "post_init", "strict") if schema.get(key)
    }
    odd |= {
        key
        for key, value in schema.get("config", {}).items()
        if key not in _HARMLESS_CONFIG and value is not None
    }
    if odd:
        raise Inexpressible(f"{name} is configured by {', '.join(sorted(odd))}")


def _field(where: str, name: str, item: Mapping[str, Any], shared: Definitions) -> PayloadField:
    odd = set(item) - {"type", "schema", "metadata", "serialization_exclude", "frozen"}
    if item["type"] != "model-field" or odd:
        raise Inexpressible(f"{where} is validated by {', '.join(sorted(odd)) or item['type']}")
    schema = _followed(where, item["schema"], shared)
    default: Any = REQUIRED
    is_nullable, is_default_known = False, True
    if schema["type"] == "default":
        _refuse_others(
            where,
            schema,
            {"schema", "default", "default_factory", "copy_default", "default_factory_takes_data"},
        )
        default = schema.get("default")
        is_default_known = "default" in schema
        schema = _followed(where, schema["schema"], shared)
    if schema["type"] == "nullable":
        _refuse_others(where, schema, {"schema"})
        is_nullable, schema = True, _followed(where, schema["schema"], shared)
    found = _scalar(where, name, schema)
    if default is not REQUIRED and is_default_known and default is not None:
        default, is_default_known = _default_text(found, default)
    return PayloadField(
        **{
            **vars(found),
            "is_nullable": is_nullable,
            "default": default,
            "is_default_known": is_default_known,
        }
    )


def _scalar(where: str, name: str, schema: Mapping[str, Any]) -> PayloadField:
    limits = tuple((key, schema[key]) for key in _LIMITS if schema.get(key) is not None)
    match schema["type"]:
        case "any":
            _refuse_others(where, schema, set())
            return PayloadField(name, "any")
        case "int" | "float" as kind:
            _refuse_others(where, schema, {*_LIMITS, *(("allow_inf_nan",) if kind == "float" else ())})
            if kind == "float" and limits:
                raise Inexpressible(f"{where} is a float with limits")
            return PayloadField(name, kind, limits=limits)
        case "decimal":
            _refuse_others(where, schema, {*_LIMITS, "max_digits", "decimal_places", "allow_inf_nan"})
            digits = schema.get("max_digits"), schema.get("decimal_places")
            return PayloadField(name, "decimal", limits=limits, digits=digits)
        case "str":
            _refuse_others(where, schema, {"min_length", "max_length"})
            return PayloadField(name, "str", lengths=(schema.get("min_length"), schema.get("max_length")))
        case "bool" | "uuid" as kind:
            _refuse_others(where, schema, set())
            return PayloadField(name, kind)
        case "date":
            _refuse_others(where, schema, set())
            return PayloadField(name, "date")
        case "datetime":
            _refuse_others(where, schema, {"microseconds_precision", "tz_constraint"})
            if schema.get("tz_constraint") not in (None, "aware", "naive"):
                raise Inexpressible(f"{where} takes one time zone only")
            return PayloadField(name, schema.get("tz_constraint") or "datetime")
        case "enum":
            _refuse_others(where, schema, {"cls", "members", "sub_type"})
            return PayloadField(name, "str", labels=_labels(where, schema["members"]), enum=schema["cls"])
        case "literal":
            _refuse_others(where, schema, {"expected"})
            if any(isinstance(value, Enum) for value in schema["expected"]):
                # The decoder gives the member, which is no text.
                raise Inexpressible(f"{where} is one of an enum's members")
            return PayloadField(name, "str", labels=_labels(where, schema["expected"]))
    raise Inexpressible(f"{where} is of type {schema['type']}")


def _labels(where: str, members: list[Any]) -> tuple[str, ...]:
    values = [member.value if isinstance(member, Enum) else member for member in members]
    if not all(type(value) is str for value in values):
        raise Inexpressible(f"{where} has values that are no texts")
    return tuple(values)


def _refuse_others(where: str, schema: Mapping[str, Any], understood: set[str]) -> None:
    odd = {
        key for key in schema if key not in understood and key not in _ANNOTATIONS and schema[key] is not None
    }
    if odd:
        raise Inexpressible(f"{where} is validated by {', '.join(sorted(odd))}")


def _default_text(field: PayloadField, value: Any) -> tuple[Any, bool]:
    """Return the text of a default that the decoder would give unseen, and whether there is one."""
    match field.kind, value:
        case ("str", Enum()) if field.enum is type(value):
            return value.value, True
        case ("str", str()) if type(value) is str and field.enum is None and "\0" not in value:
            return value, True
        case ("bool", bool()):
            return ("true" if value else "false"), True
        case ("int", int()) if type(value) is int:
            return str(value), True
        case ("uuid", UUID()):
            return str(value), True
        case ("decimal", Decimal()) if value.is_finite() and value.as_tuple().exponent <= 0:  # type: ignore[operator]
            return str(value), "E" not in str(value)
    return None, False
