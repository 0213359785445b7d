"""``diff``: what the new version changes, table by table.

During a migration the live table (old) is compared with the shadow table (new), after it the retired table (old) with the live one (new).
The two stand at different moments: the shadow at the snapshot of its last pass, the retired table at the moment of the swap. Aggregates
with events or edits since, and those that a replay has set aside, are left out and counted, so that what is reported is what the new
version makes of the same events, and nothing that is merely late. Old and new are read in one snapshot.

Reads only; one statement per table, which sorts on disk what does not fit in memory and may be cancelled at any time. Columns that only one
side has are named and not compared; those that the database draws on either side are left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import errors as pg
from psycopg import sql

from sequent_py.checks.comparison import (
    compare,
    compared_column,
    pairing_key,
)
from sequent_py.checks.scratch import generated_from
from sequent_py.errors import ConfigurationError, MigrationError, MigrationNotStarted
from sequent_py.persistors.tables import ReflectedColumn, is_constant, reflect_columns
from sequent_py.progress import Progress
from sequent_py.replay import fence
from sequent_py.replay.edits import edited_after
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.bookkeeping.relations import TableRole
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.states import MigrationState
from sequent_py.windows import window_condition

POLL_SECONDS = 0.2
OWNER = "aggregate_id"


@dataclass(frozen=True)
class TableDiff:
    """How one table differs from one version to the other."""

    table_name: str
    old_name: str | None
    """None where the table is new."""
    new_name: str
    old_rows: int
    """Without those of aggregates that were left out."""
    new_rows: int
    only_in_old: int = 0
    only_in_new: int = 0
    changed: int = 0
    changed_columns: Mapping[str, int] = field(default_factory=dict)
    """In how many of the changed rows each column differs."""
    columns_only_in_old: tuple[str, ...] = ()
    columns_only_in_new: tuple[str, ...] = ()
    uncompared_columns: tuple[str, ...] = ()
    """Columns whose values the database draws, or computes."""
    paired_by: tuple[str, ...] = ()
    late_aggregates: int = 0
    """Aggregates left out because only one side has their newest events, or the latest edits of them, or because a replay set them aside."""
    is_late: bool = False
    """Whether late aggregates could not be left out, because rows do not say whose they are."""
    examples_only_in_old: tuple[str, ...] = ()
    examples_only_in_new: tuple[str, ...] = ()
    examples_changed: tuple[str, ...] = ()
    """The old value, then the new one."""

    @property
    def is_same(self) -> bool:
        """Whether every compared value of every compared row is the same."""
        return not (self.only_in_old or self.only_in_new or self.changed)


@dataclass(frozen=True)
class DiffReport:
    """What a version changes."""

    migration_id: int
    from_version: int
    target_version: int
    state: str
    tables: tuple[TableDiff, ...]
    seconds: float


@dataclass(frozen=True)
class _Pair:
    """Two relations of one managed table."""

    table: str
    old: str | None
    new: str


def run_diff(context: Context, *, tables: Sequence[str], examples: int, progress: Progress) -> DiffReport:
    """Compare the old with the new version of tables.

    Raises
    ------
    MigrationNotStarted
        No migration has built a table that could be compared.
    MigrationError
        The migration went on meanwhile, or a pass is unfinished.
    """
    started = time.monotonic()
    with context.reading("migrate diff") as connection:
        context.require_installed(connection)
        migration = _migration(context, connection)
        found = []
        for table in _wanted(migration, tables):
            progress.step(f"comparing {table}")
            found.append(_diff(context, connection, migration, table, examples))
        return DiffReport(
            migration_id=migration.id,
            from_version=migration.from_version,
            target_version=migration.target_version,
            state=migration.state.value,
            tables=tuple(found),
            seconds=time.monotonic() - started,
        )


def _migration(context: Context, connection: Connection) -> ViewMigration:
    migration = context.versions.unfinished(connection)
    if migration is not None and migration.state is MigrationState.ONLINE_RUNNING:
        raise MigrationError(
            f"The tables of version {migration.target_version} are not built yet: online is not done.",
            remedy="Run: sequent migrate online",
        )
    if migration is None:
        migration = next(
            (
                item
                for item in context.versions.history(connection)
                if item.state is not MigrationState.ABORTED
            ),
            None,
        )
    if migration is None or migration.state is MigrationState.ROLLED_BACK:
        raise MigrationNotStarted(
            "No view migration has built tables that could be compared.", remedy="Run: sequent migrate online"
        )
    return migration


def _wanted(migration: ViewMigration, tables: Sequence[str]) -> list[str]:
    rebuilt = [step.table_name for step in migration.plan.replays]
    unknown = [table for table in tables if table not in rebuilt]
    if unknown:
        raise ConfigurationError(
            f"The migration to version {migration.target_version} does not rebuild {', '.join(unknown)}; it rebuilds:"
            f" {', '.join(rebuilt) or 'nothing'}.",
            remedy="Give the plain names of rebuilt tables.",
        )
    return list(dict.fromkeys(tables)) or rebuilt


def _diff(
    context: Context, connection: Connection, migration: ViewMigration, table: str, examples: int
) -> TableDiff:
    while True:
        pair = _pair(context, connection, migration, table)
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # LOCK TABLE takes no snapshot. After it no swap can come between the snapshot, which the next statement takes, and the rows.
            _lock(connection, context.config.view_schema, pair)
            _require_same(context, connection, migration, pair)
            since = _older_snapshot(context, connection, migration)
            if since is not None:
                return _compare(context, connection, pair, since, examples)
        if fence.coordinator(connection, context.schema) is None:
            raise MigrationError(
                "The shadow tables are between two snapshots: a pass is unfinished, and nobody is at work on it.",
                remedy="Run: sequent migrate online, then sequent migrate diff",
            )
        time.sleep(POLL_SECONDS)


def _pair(context: Context, connection: Connection, migration: ViewMigration, table: str) -> _Pair:
    relations = context.relations
    live = {item.table_name: item for item in relations.tables(connection, TableRole.LIVE)}
    if not migration.state.is_finished:
        step = next(step for step in migration.plan.replays if step.table_name == table)
        return _Pair(table, live[table].physical_name if table in live else None, step.shadow_name)
    retired = next(
        (
            item.physical_name
            for item in relations.retired(connection)
            if item.table_name == table and item.retired_by == migration.id
        ),
        None,
    )
    return _Pair(table, retired, table)


def _lock(connection: Connection, view_schema: str, pair: _Pair) -> None:
    names = [name for name in (pair.old, pair.new) if name is not None]
    try:
        connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(
                sql.SQL(", ").join(sql.Identifier(view_schema, name) for name in names)
            )
        )
    except (pg.UndefinedTable, pg.InvalidSchemaName) as error:
        raise MigrationError(
            f"Tables that are to be compared are not there, or no longer: {error.diag.message_primary}.",
            remedy="See: sequent migrate status",
        ) from error


def _require_same(context: Context, connection: Connection, migration: ViewMigration, pair: _Pair) -> None:
    now = next(item for item in context.versions.history(connection) if item.id == migration.id)
    is_same = now.state.is_finished == migration.state.is_finished
    is_same = is_same and (now.promoted_snapshot, now.return_pass) == (
        migration.promoted_snapshot,
        migration.return_pass,
    )
    if not is_same or _pair(context, connection, migration, pair.table) != pair:
        raise MigrationError(
            f"The migration went on while its tables were being compared: it is {now.state} now.",
            remedy="Run it again: sequent migrate diff",
        )


def _older_snapshot(context: Context, connection: Connection, migration: ViewMigration) -> str | None:
    """Return the snapshot at which the side stands that gets no more events; None while a pass is under way.

    A retired table stands at the snapshot of the cut-over, unless a rollback has begun to bring it up to date.
    """
    if migration.state.is_finished and migration.return_pass is None:
        if migration.promoted_snapshot is None:
            raise MigrationError(
                f"It is not recorded at which moment the tables of view migration {migration.id} retired.",
                remedy="See: sequent migrate status",
            )
        return migration.promoted_snapshot
    last = context.ledger.latest_pass(connection, migration.id)
    if last is None:
        raise MigrationError(
            f"View migration {migration.id} has no passes any more.", remedy="See: sequent migrate status"
        )
    if context.ledger.has_unfinished(connection, migration.id):
        return None
    return last.until


def _compare(context: Context, connection: Connection, pair: _Pair, since: str, examples: int) -> TableDiff:
    view_schema = context.config.view_schema
    new_columns = {item.name: item for item in reflect_columns(connection, view_schema, pair.new)}
    if pair.old is None:
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(view_schema, pair.new))
        ).fetchone()
        assert row is not None
        return TableDiff(pair.table, None, pair.new, 0, row[0], columns_only_in_new=tuple(new_columns))  # type: ignore[arg-type]
    old_columns = {item.name: item for item in reflect_columns(connection, view_schema, pair.old)}
    drawn = _drawn(connection, view_schema, pair.old, old_columns) | _drawn(
        connection, view_schema, pair.new, new_columns
    )
    common = [name for name in new_columns if name in old_columns]
    columns = [compared_column(old_columns[name], new_columns[name]) for name in common if name not in drawn]
    names = [column.name for column in columns]
    has_owner = all(_is_owned(side) for side in (old_columns, new_columns))
    late = _late(context, connection, pair, since)
    sides = [
        _on_time(sql.Identifier(view_schema, name), late)
        if has_owner
        else sql.SQL("{} t").format(sql.Identifier(view_schema, name))
        for name in (pair.old, pair.new)
    ]
    key = pairing_key(connection, view_schema, pair.new, names)
    comparison = compare(connection, sides[0], sides[1], columns=columns, key=key, examples=examples)
    old_rows, new_rows, late_aggregates = _counts(connection, sides, late)
    return TableDiff(
        table_name=pair.table,
        old_name=pair.old,
        new_name=pair.new,
        old_rows=old_rows,
        new_rows=new_rows,
        only_in_old=comparison.only_left,
        only_in_new=comparison.only_right,
        changed=comparison.changed,
        changed_columns=comparison.changed_columns,
        columns_only_in_old=tuple(name for name in old_columns if name not in new_columns),
        columns_only_in_new=tuple(name for name in new_columns if name not in old_columns),
        uncompared_columns=tuple(name for name in common if name in drawn),
        paired_by=key,
        late_aggregates=late_aggregates if has_owner else 0,
        is_late=bool(late_aggregates) and not has_owner,
        examples_only_in_old=comparison.described_left,
        examples_only_in_new=comparison.described_right,
        examples_changed=tuple(map(str, comparison.changed_examples)),
    )


def _late(context: Context, connection: Connection, pair: _Pair, since: str) -> sql.Composed:
    """Compose the query for the aggregates that cannot be compared: those with events, or edits of them, that the older side has not
    seen, of any type, which leaves out too many rather than too few; and those that a replay has set aside.
    """
    names = [name for name in (pair.old, pair.new) if name is not None]
    set_aside = context.quarantine.left_out_of(connection, names)
    return sql.SQL(
        "SELECT aggregate_id FROM {} WHERE {} UNION ALL {} UNION ALL SELECT unnest({}::uuid[])"
    ).format(
        sql.Identifier(context.schema, "events"),
        window_condition(since, None),
        edited_after(context.schema, since),
        sql.Literal([str(aggregate_id) for aggregate_id in sorted(set_aside)]),
    )


def _counts(
    connection: Connection, sides: Sequence[sql.Composable], late: sql.Composable
) -> tuple[int, int, int]:
    row = connection.execute(
        sql.SQL(
            "SELECT (SELECT count(*) FROM {}), (SELECT count(*) FROM {}), (SELECT count(DISTINCT aggregate_id) FROM ({}) l)"
        ).format(*sides, late)
    ).fetchone()
    assert row is not None
    return row  # type: ignore[return-value]


def _on_time(table: sql.Identifier, late: sql.Composable) -> sql.Composed:
    """Compose a FROM item: the rows of a table without those of late aggregates."""
    return sql.SQL(
        "(SELECT * FROM {table} s WHERE NOT EXISTS (SELECT FROM ({late}) l WHERE l.aggregate_id = s.{owner})) t"
    ).format(table=table, late=late, owner=sql.Identifier(OWNER))


def _is_owned(columns: Mapping[str, ReflectedColumn]) -> bool:
    return OWNER in columns and columns[OWNER].type_text == "uuid"


def _drawn(
    connection: Connection, schema: str, table: str, columns: Mapping[str, ReflectedColumn]
) -> set[str]:
    """Return the columns whose values the database draws, or computes from such; only the catalog is there to tell, for old code is not."""
    drawn = {
        name
        for name, column in columns.items()
        if column.identity
        or (column.default is not None and not column.is_generated and not is_constant(column.default))
    }
    sources = generated_from(connection, schema, table)
    return drawn | {name for name, used in sources.items() if used & drawn}
