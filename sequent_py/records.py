"""Records: the typed rows of managed tables, and what the library needs to know of them.

Pure: shapes, conversion and row classes; no database. An application declares a record as a SQLAlchemy 2 mapping; queries of the read
side use it as such. Handlers get lighter rows of the same attributes (see ``row_classes``), alike from every persistor.

What a record says is what Python knows. The table file says the rest (server defaults, lengths, exact types), and where the two name
different types of one family the table's decides; a persistor then works with a refined copy of the shape.
"""

from __future__ import annotations

import functools
import keyword
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import sqlalchemy
from sqlalchemy import types as sql_types
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import ColumnProperty, DeclarativeBase, Mapper, registry

from sequent_py import row_classes
from sequent_py.column_types import ColumnType, array_type, simple_type, text_type
from sequent_py.conversions import converter
from sequent_py.errors import DefinitionError, InvalidValue
from sequent_py.names import NAME_LIMIT_BYTES

_ANNOTATIONS: dict[Any, Any] = {
    int: sqlalchemy.BigInteger(),
    str: sqlalchemy.Text(),
    float: sqlalchemy.Double(),
    datetime: sqlalchemy.DateTime(timezone=True),
    dict: postgresql.JSONB(),
    dict[str, Any]: postgresql.JSONB(),
    list[dict[str, Any]]: postgresql.JSONB(),
    list[str]: postgresql.ARRAY(sqlalchemy.Text()),
    list[int]: postgresql.ARRAY(sqlalchemy.BigInteger()),
    list[UUID]: postgresql.ARRAY(sqlalchemy.Uuid()),
    list[Decimal]: postgresql.ARRAY(sqlalchemy.Numeric()),
}

_RESERVED = frozenset({"touch"})
"""Keywords of the persistor methods; a filter of that name could not be told from them."""


class Record(DeclarativeBase):
    """The base of an application's records.

    Annotations mean PostgreSQL's usual choices: ``int`` is bigint, ``str`` text, ``datetime`` timestamptz, ``dict[str, Any]`` jsonb,
    ``list[str]`` text[]. A table or class name that is declared a second time (two versions of a record in one process) gets a registry
    of its own instead of SQLAlchemy's error.
    """

    type_annotation_map = _ANNOTATIONS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if vars(cls).get("__tablename__") is not None and _is_declared(cls):
            # Not ``registry``: SQLAlchemy reserves that name on classes below the base.
            cls.metadata = sqlalchemy.MetaData()
            cls._sa_registry = registry(metadata=cls.metadata, type_annotation_map=_ANNOTATIONS)
        super().__init_subclass__(**kwargs)


def _is_declared(cls: type[Record]) -> bool:
    if vars(cls)["__tablename__"] in cls.metadata.tables:
        return True
    named = (cls.__module__, cls.__name__)
    return any(named == (m.class_.__module__, m.class_.__name__) for m in cls.registry.mappers)


@dataclass(frozen=True, eq=False)
class ColumnShape:
    """A column of a record. ``name`` is the column's, ``attribute`` what handlers call it."""

    record_name: str
    attribute: str
    name: str
    type: ColumnType
    nullable: bool
    primary_key: bool
    generated: bool = False
    coerce: Callable[[Any], Any] = field(init=False, repr=False)
    """Convert a value to exactly what the column would give back; InvalidValue names record, column and the value's type."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "coerce", self._build_coerce())

    @property
    def type_name(self) -> str:
        """PostgreSQL's short name: ``int8``, ``numeric``, ``text[]``."""
        return self.type.name

    @property
    def mutable(self) -> bool:
        """Whether values are JSON or arrays, which are copied deeply at every border."""
        return self.type.is_mutable

    def _build_coerce(self) -> Callable[[Any], Any]:
        convert, nullable, is_key = converter(self.type), self.nullable, self.primary_key
        record_name, attribute, type_text = self.record_name, self.attribute, str(self.type)

        def coerce(value: Any) -> Any:
            if value is None and nullable:
                return None
            try:
                if value is None:
                    raise ValueError("it is NOT NULL")
                converted = convert(value)
                if is_key and converted != converted:
                    raise ValueError("NaN is no key")
            except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
                raise InvalidValue(record_name, attribute, type_text, value, str(error)) from None
            return converted

        return coerce


@dataclass(frozen=True, eq=False)
class RecordShape:
    """What the library knows of a record class. ``columns`` are those that handlers read and write; ``readers_only`` the generated ones.

    ``primary_key`` holds column names in the key's order, ``python_defaults`` functions by attribute.
    """

    record: type[Record]
    table_name: str
    columns: tuple[ColumnShape, ...]
    readers_only: tuple[ColumnShape, ...]
    primary_key: tuple[str, ...]
    python_defaults: Mapping[str, Callable[[], Any]]
    row_class: type
    locked_row_class: type
    clone: Callable[[Any], Any] = field(repr=False)
    """Copy a row into a writable one."""
    lock: Callable[[Any], Any] = field(repr=False)
    """Make a row read-only and return it."""
    new_row: Callable[[Sequence[Any]], Any] = field(repr=False)
    """Make a locked row of converted values in the order of ``columns``."""
    values_of: Callable[[Any], tuple[Any, ...]] = field(repr=False)
    """Return a row's values in the order of ``columns``."""
    by_attribute: Mapping[str, ColumnShape] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_attribute = MappingProxyType({column.attribute: column for column in self.columns})
        object.__setattr__(self, "by_attribute", by_attribute)

    @property
    def name(self) -> str:
        """The record class's name, for messages."""
        return self.record.__name__

    @property
    def key_columns(self) -> tuple[ColumnShape, ...]:
        """The primary key's columns in the key's order."""
        by_name = {column.name: column for column in self.columns}
        return tuple(by_name[name] for name in self.primary_key)

    @property
    def has_mutable(self) -> bool:
        """Whether rows hold values that can change in place."""
        return any(column.mutable for column in self.columns)

    @property
    def has_aggregate_id(self) -> bool:
        """Whether rows belong to an aggregate."""
        return "aggregate_id" in self.by_attribute

    @property
    def has_updated_at(self) -> bool:
        """Whether updates note the event's time."""
        return self._has_beside_the_key("updated_at")

    @property
    def has_sequence_number(self) -> bool:
        """Whether updates note the event's sequence number; as part of the key it says which row this is, not what became of it."""
        return self._has_beside_the_key("sequence_number")

    def _has_beside_the_key(self, attribute: str) -> bool:
        column = self.by_attribute.get(attribute)
        return column is not None and not column.primary_key

    def with_columns(self, columns: Sequence[ColumnShape]) -> RecordShape:
        """Return the shape with other types for the same attributes; row classes stay the same objects."""
        mutable = frozenset(column.attribute for column in columns if column.mutable)
        attributes = [column.attribute for column in columns]
        clone = row_classes.build_cloner(self.row_class, attributes, mutable)
        return replace(self, columns=tuple(columns), clone=clone)


@functools.cache
def record_shape(record: type[Record]) -> RecordShape:
    """Return the shape of a record class; the same object every time.

    Raises
    ------
    DefinitionError
        The record cannot work: not mapped, no primary key, an unsupported column type, ``onupdate``, SQL defaults, inheritance, or
        names that the library or PostgreSQL cannot take.
    """
    mapper = _mapper_of(record)
    table = mapper.local_table
    assert isinstance(table, sqlalchemy.Table)
    _check_table_name(record, table.name)
    properties = [prop for prop in mapper.column_attrs if _is_plain(prop)]
    every = [_column_shape(record, prop) for prop in properties]
    columns = [column for column in every if not column.generated]
    primary_key = tuple(column.name for column in table.primary_key.columns)
    by_name = {column.name: column for column in columns}
    for name in primary_key:
        if name not in by_name:
            raise _wrong(record, f"its primary key column {name!r} is not a plain mapped column")
        if by_name[name].type.unfilterable or by_name[name].type.members is not None:
            raise _wrong(record, f"a {by_name[name].type} column cannot be part of the primary key")
    attributes = [column.attribute for column in columns]
    key_attributes = [by_name[name].attribute for name in primary_key]
    writable, locked = row_classes.build_row_classes(record, Record, attributes, key_attributes)
    mutable = frozenset(column.attribute for column in columns if column.mutable)
    return RecordShape(
        record=record,
        table_name=table.name,
        columns=tuple(columns),
        readers_only=tuple(column for column in every if column.generated),
        primary_key=primary_key,
        python_defaults=MappingProxyType(_python_defaults(record, properties)),
        row_class=writable,
        locked_row_class=locked,
        clone=row_classes.build_cloner(writable, attributes, mutable),
        lock=row_classes.build_locker(locked),
        new_row=row_classes.build_constructor(writable, locked, attributes),
        values_of=row_classes.build_reader(attributes),
    )


def _wrong(record: type, why: str, remedy: str = "") -> DefinitionError:
    return DefinitionError(f"{record.__name__}: {why}.", remedy=remedy)


def _mapper_of(record: type[Record]) -> Mapper[Any]:
    if not (isinstance(record, type) and issubclass(record, Record)):
        raise DefinitionError(f"{record!r} is not a Record class.")
    try:
        mapper = sqlalchemy.inspect(record, raiseerr=False)
        if mapper is None:
            raise _wrong(record, "it has no table", "Set __tablename__.")
        mapper.check_configured() if hasattr(mapper, "check_configured") else mapper.registry.configure()
    except SQLAlchemyError as error:
        raise _wrong(record, f"SQLAlchemy cannot map it: {error}") from error
    if mapper.inherits is not None:
        raise _wrong(record, f"it inherits the table of {mapper.inherits.class_.__name__}")
    if not isinstance(mapper.local_table, sqlalchemy.Table):
        raise _wrong(record, "it is not mapped to one table")
    return mapper


def _check_table_name(record: type[Record], name: str) -> None:
    if not name or "\0" in name or len(name.encode()) > NAME_LIMIT_BYTES:
        raise _wrong(record, f"{name!r} is no table name: 1 to {NAME_LIMIT_BYTES} bytes are needed")


def _is_plain(prop: ColumnProperty[Any]) -> bool:
    """Whether the property is a column of the table, not an expression for readers."""
    return isinstance(prop.columns[0], sqlalchemy.Column)


def _column_shape(record: type[Record], prop: ColumnProperty[Any]) -> ColumnShape:
    column = prop.columns[0]
    assert isinstance(column, sqlalchemy.Column)
    attribute = prop.key
    is_identifier = attribute.isidentifier() and not keyword.iskeyword(attribute)
    if not is_identifier or unicodedata.normalize("NFKC", attribute) != attribute:
        raise _wrong(
            record,
            f"the attribute {attribute!r} is not a Python name",
            f"Map the column under one: name = mapped_column({column.name!r}).",
        )
    if attribute in _RESERVED or attribute.startswith("__"):
        raise _wrong(
            record,
            f"the attribute {attribute!r} is reserved",
            f"Map the column under another: {attribute.strip('_')}_ = mapped_column({column.name!r}).",
        )
    if column.onupdate is not None:
        raise _wrong(record, f"onupdate of {attribute} would not run in a replay", "Set it in the handler.")
    return ColumnShape(
        record.__name__,
        attribute,
        column.name,
        _type_of(record, attribute, column.type),
        bool(column.nullable),
        column.primary_key,
        column.computed is not None,
    )


def _type_of(record: type[Record], attribute: str, declared: Any) -> ColumnType:
    found = _known_type(declared)
    if found is None:
        raise _wrong(
            record,
            f"{attribute} has the type {declared!r}, which handlers cannot read and write alike in memory and in the table",
            "Supported are integers, boolean, float, numeric, text, uuid, timestamps, date, time, interval, bytea, json and one-dimensional "
            "arrays; other columns can be left out of the record.",
        )
    return found


def _known_type(declared: Any) -> ColumnType | None:
    match declared:
        case sql_types.Enum():
            members = None
            if declared.enum_class is not None:
                members = dict(zip(declared.enums, _members_of(declared), strict=True))
            return text_type("enum", labels=tuple(declared.enums), members=members)
        case postgresql.CITEXT():
            return text_type("citext", unfilterable="only the server knows which citext values are equal")
        case sql_types.CHAR():
            return simple_type("bpchar", length=declared.length or 1)
        case sql_types.String():
            if declared.length is None:
                return simple_type("text")
            return simple_type("varchar", length=declared.length)
        case sql_types.Float() if not declared.asdecimal:
            return simple_type("float4" if isinstance(declared, sql_types.REAL) else "float8")
        case sql_types.Numeric() if declared.asdecimal:
            scale = None if declared.precision is None else declared.scale or 0
            return simple_type("numeric", precision=declared.precision, scale=scale)
        case sql_types.ARRAY() if (declared.dimensions or 1) == 1:
            element = _known_type(declared.item_type)
            return None if element is None or element.is_mutable else array_type(element)
        case postgresql.DOMAIN():
            return _known_type(declared.data_type)
        case sql_types.DateTime():
            return simple_type("timestamptz" if declared.timezone else "timestamp")
        case sql_types.Time() if not declared.timezone:
            return simple_type("time")
        case sql_types.Uuid() if declared.as_uuid:
            return simple_type("uuid")
    for kind, name in _BY_CLASS:
        if isinstance(declared, kind):
            return simple_type(name)
    return None


_BY_CLASS: tuple[tuple[type, str], ...] = (
    (sql_types.SmallInteger, "int2"),
    (sql_types.BigInteger, "int8"),
    (sql_types.Integer, "int4"),
    (sql_types.Boolean, "bool"),
    (sql_types.Date, "date"),
    (sql_types.Interval, "interval"),
    (postgresql.INTERVAL, "interval"),
    (sql_types.LargeBinary, "bytea"),
    (postgresql.BYTEA, "bytea"),
    (postgresql.JSONB, "jsonb"),
    (sql_types.JSON, "json"),
)
"""In this order: SmallInteger and BigInteger are Integers, JSONB is a JSON."""


def _members_of(declared: sql_types.Enum) -> list[Any]:
    """Return the members in the order of the labels; SQLAlchemy takes them in the class's order, aliases included unless told not to."""
    assert declared.enum_class is not None
    members: Mapping[str, Any] = declared.enum_class.__members__
    if len(members) == len(declared.enums):
        return list(members.values())
    return list(declared.enum_class)


def _python_defaults(
    record: type[Record], properties: list[ColumnProperty[Any]]
) -> dict[str, Callable[[], Any]]:
    defaults: dict[str, Callable[[], Any]] = {}
    for prop in properties:
        default = prop.columns[0].default
        if default is None:
            continue
        if default.is_callable:
            defaults[prop.key] = functools.partial(default.arg, None)
        elif default.is_scalar:
            defaults[prop.key] = functools.partial(_give, default.arg)
        else:
            raise _wrong(
                record,
                f"the default of {prop.key} is SQL, which a replay could not evaluate row by row",
                "Put it into the table file.",
            )
    return defaults


def _give(value: Any) -> Any:
    return value
