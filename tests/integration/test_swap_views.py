"""Views of others over managed tables: they read the new tables after a swap, or the migration is refused before it begins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from shop import Shop2, place_orders, shop
from table_generations import VIEW_SCHEMA, Generations, dump, files, objects, plan, shape

from sequent_py.errors import DependentObjects, TableFileError
from sequent_py.view_schema.ddl.executor import AlterScript
from sequent_py.view_schema.ddl.table_files import TableFiles
from sequent_py.view_schema.ddl.view_trial import prove_views
from sequent_py.view_schema.tables import dependents

LINES = files(
    "lines",
    "CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, n int);",
    "CREATE INDEX lines_name%SUFFIX% ON lines%SUFFIX% (name);",
)
MORE = files("more", "CREATE TABLE more%SUFFIX% (id int PRIMARY KEY, name text NOT NULL);")


@pytest.fixture
def generations(database_url: str) -> Iterator[Generations]:
    made = Generations(database_url)
    yield made
    made.close()


def fill(generations: Generations) -> str:
    """Put one row into each shadow table, which says whose generation it is; return that."""
    version = generations.version + 1
    name = f"generation {version}"
    for table in ("lines", "more"):
        generations.connection.execute(
            sql.SQL("INSERT INTO {} (id, name) VALUES (1, {})").format(
                sql.Identifier(VIEW_SCHEMA, f"{table}_{version}"), name
            )
        )
    return name


def proved(generations: Generations, *tables: TableFiles) -> tuple[str, ...]:
    """Do what a migration does before it begins."""
    names = [item.table for item in tables]
    dependents.check(
        generations.connection,
        VIEW_SCHEMA,
        plan(generations.version, generations.version + 1, names, names),
        generations.live,
    )
    return prove_views(
        generations.connection,
        view_schema=VIEW_SCHEMA,
        files=tables,
        target_version=generations.version + 1,
        live=generations.live,
    )


def generation(generations: Generations, *tables: TableFiles) -> str:
    """Build and promote tables whose rows say of which generation they are."""
    shadows = generations.build(*tables)
    name = fill(generations)
    generations.swap(shadows)
    return name


VIEWS = [
    "CREATE TABLE countries (id int, line bigint)",
    "INSERT INTO countries VALUES (7, 1)",
    # The outermost one sorts first by name, so that an order by name would differ from the one of the locks.
    "CREATE VIEW z_inner AS SELECT l.id, l.name AS \"Näme %s\", l.n FROM {schema}.lines l WHERE l.id > 0",
    "CREATE VIEW {schema}.middle (a, b, country) WITH (security_barrier) AS"
    " SELECT z.id, m.name, c.id FROM z_inner z JOIN {schema}.more m USING (id) LEFT JOIN countries c ON c.line = z.id",
    "CREATE VIEW a_outer AS WITH RECURSIVE t AS (SELECT a, b FROM {schema}.middle UNION SELECT a + 1, b FROM t WHERE a < 3)"
    " SELECT t.*, (SELECT count(*) FROM {schema}.lines) AS lines FROM t",
    "CREATE VIEW careful WITH (security_invoker = true, check_option = local) AS SELECT id, name FROM {schema}.lines WHERE n IS NULL",
    "COMMENT ON VIEW careful IS 'a view'",
    "COMMENT ON COLUMN careful.name IS 'its column'",
    "ALTER VIEW careful ALTER name SET DEFAULT 'nobody'",
    "CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER instead INSTEAD OF INSERT ON a_outer FOR EACH ROW EXECUTE FUNCTION instead()",
    "CREATE VIEW grouped AS SELECT l.id, l.name, count(m.id) FROM {schema}.lines l JOIN {schema}.more m USING (id) GROUP BY l.id",
    "CREATE VIEW sampled AS SELECT r.name, row_to_json(r.*) AS everything FROM ONLY {schema}.lines r TABLESAMPLE system (100)",
    "CREATE VIEW {schema}.\"select\" AS SELECT pg_get_serial_sequence('x.y', 'id') IS NULL AS quoted, 'lines' AS literal FROM {schema}.lines"
    " WHERE name ~ '^[^\\]*$' OR name LIKE '100%'",
]  # fmt: skip
READERS = {"z_inner", "middle", "a_outer", "careful", "grouped", "sampled", "select"}


def dumps(generations: Generations) -> list[str]:
    return [
        dump(generations.url, schema, name)
        for schema in ("public", VIEW_SCHEMA)
        for kind, name in sorted(objects(generations.connection, schema))
        if kind == "v"
    ]


def test_views_read_the_tables_that_serve(generations: Generations) -> None:
    assert generation(generations, LINES, MORE) == "generation 1"
    for statement in VIEWS:
        generations.execute(statement)
    before = dumps(generations)
    assert {name.split(".")[-1] for name in proved(generations, LINES, MORE)} == READERS
    for number in range(2, 5):
        shadows = generations.build(LINES, MORE)
        name = fill(generations)
        done = generations.swap(shadows)
        assert {view.split(".")[-1] for view in done.repointed_views} == READERS
        assert name == f"generation {number}"
        for view, column in (
            ("z_inner", "Näme %s"),
            ("a_outer", "b"),
            ("careful", "name"),
            ("sampled", "name"),
        ):
            assert generations.execute("SELECT DISTINCT {column} FROM {view}", view=view, column=column) == [
                (name,)
            ]
        assert generations.execute("SELECT name, count FROM grouped") == [(name, 1)]
        assert dumps(generations) == before
    assert generations.execute("SELECT a, country FROM {schema}.middle") == [(1, 7)]
    assert generations.execute("INSERT INTO careful (id) VALUES (2) RETURNING name") == [("nobody",)]
    # Forth and back: a retired table that serves again is read again.
    for version in (3, 4):
        generations.swap({item.table: item for item in generations.retired.values()}, version=version)
        assert generations.execute("SELECT DISTINCT b FROM a_outer") == [(f"generation {version}",)]
        assert dumps(generations) == before


def test_owner_and_grants_of_a_view_stay(generations: Generations, database_prefix: str) -> None:
    reader, owner = f'{database_prefix} "r"', f"{database_prefix}_o"
    generation(generations, LINES, MORE)
    for role in (reader, owner):
        generations.execute("CREATE ROLE {role}", role=role)
    try:
        for statement in (
            "CREATE VIEW reading AS SELECT id, name FROM {schema}.lines",
            "GRANT SELECT ON {schema}.lines TO {owner}",
            "ALTER VIEW reading OWNER TO {owner}",
            "GRANT SELECT ON reading TO {reader} WITH GRANT OPTION",
            "GRANT UPDATE (name) ON reading TO PUBLIC",
        ):
            generations.execute(statement, reader=reader, owner=owner)
        before = dumps(generations)
        name = generation(generations, LINES, MORE)
        assert dumps(generations) == before
        generations.execute("SET ROLE {reader}", reader=reader)
        assert generations.execute("SELECT name FROM reading") == [(name,)]
        generations.execute("RESET ROLE")
    finally:
        for role in (reader, owner):
            generations.execute("DROP OWNED BY {role} CASCADE", role=role)
            generations.execute("DROP ROLE {role}", role=role)


def test_a_view_that_this_role_may_not_replace_is_named(
    generations: Generations, database_prefix: str
) -> None:
    role, owner = f"{database_prefix}_stranger", f"{database_prefix}_landlord"
    generations.migrate(LINES)
    generations.execute("CREATE VIEW reading AS SELECT id FROM {schema}.lines")
    generations.execute("CREATE SCHEMA closed")
    generations.execute("CREATE VIEW closed.ours AS SELECT id FROM {schema}.lines")
    for name in (role, owner):
        generations.execute("CREATE ROLE {name}", name=name)
    try:
        generations.execute("ALTER VIEW reading OWNER TO {owner}", owner=owner)
        generations.execute("ALTER VIEW closed.ours OWNER TO {role}", role=role)
        generations.execute("GRANT USAGE ON SCHEMA {schema} TO {role}", role=role)
        generations.execute("SET ROLE {role}", role=role)
        step = plan(1, 2, ["lines"], ["lines"])
        with pytest.raises(DependentObjects) as caught:
            dependents.check(generations.connection, VIEW_SCHEMA, step, generations.live)
        assert f"closed.ours ({role} has no CREATE on the schema closed)" in str(caught.value)
        assert f"public.reading (it belongs to {owner}, of which {role} is no member)" in str(caught.value)
        generations.execute("RESET ROLE")
        remedy = caught.value.remedy
        assert f"ALTER VIEW public.reading OWNER TO {role};" in remedy
        assert f"GRANT CREATE ON SCHEMA closed TO {role};" in remedy
        generations.connection.execute(remedy.removeprefix("Run, as a superuser: ").encode())
        generations.execute("SET ROLE {role}", role=role)
        dependents.check(generations.connection, VIEW_SCHEMA, step, generations.live)
    finally:
        generations.execute("RESET ROLE")
        for name in (role, owner):
            generations.execute("DROP OWNED BY {name} CASCADE", name=name)
            generations.execute("DROP ROLE {name}", name=name)


COLUMNS = "CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, n int, m int);"
UNREADABLE = {
    "a column that is gone": (
        "SELECT id, n FROM {schema}.lines",
        "CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, m int);",
        r'column "?(lines\.)?n"? ',
    ),
    "a column that is gone and only filters": (
        "SELECT id FROM {schema}.lines l WHERE l.n > 3",
        "CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, m int);",
        r'column "?(l\.)?n"? does not exist',
    ),
    "a column of another type": (
        "SELECT id, n FROM {schema}.lines",
        COLUMNS.replace("n int", "n bigint"),
        "column n would be of type bigint, not integer",
    ),
    "a result of another type": (
        "SELECT sum(n) AS total FROM {schema}.lines",
        COLUMNS.replace("n int", "n bigint"),
        "column total would be of type numeric, not bigint",
    ),
    "another collation": (
        "SELECT name FROM {schema}.lines",
        COLUMNS.replace("name text", 'name text COLLATE "C"'),
        "column name would be of type text COLLATE .*, not text",
    ),
    "the row type": ("SELECT l FROM {schema}.lines l", COLUMNS, "column l would be of type another lines, created anew"),
    "a key that is gone": (
        "SELECT id, name FROM {schema}.lines GROUP BY id",
        COLUMNS.replace("PRIMARY KEY", "NOT NULL"),
        "must appear in the GROUP BY clause",
    ),
    "columns by their order": (
        "SELECT l.b FROM {schema}.lines l(a, x, b, c)",
        COLUMNS.replace("n int, m int", "m int, n int"),
        "columns of lines names of its own by their order",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_view_that_could_not_read_the_new_table_is_refused_before_any_work_and_by_the_swap(
    generations: Generations, what: str
) -> None:
    query, new, match = UNREADABLE[what]
    generations.migrate(files("lines", COLUMNS))
    generations.execute(f"CREATE VIEW reading AS {query}")
    before, changed = objects(generations.connection, VIEW_SCHEMA), files("lines", new)
    with pytest.raises(
        DependentObjects, match=rf"The view public\.reading cannot read the new tables: .*{match}"
    ):
        proved(generations, changed)
    assert objects(generations.connection, VIEW_SCHEMA) == before
    shadows = generations.build(changed)
    before, dumped = objects(generations.connection, VIEW_SCHEMA), generations.dump("lines")
    with pytest.raises(DependentObjects, match=r"The view public\.reading cannot read the new tables"):
        generations.swap(shadows)
    assert objects(generations.connection, VIEW_SCHEMA) == before
    assert generations.dump("lines") == dumped


def test_a_view_takes_no_notice_of_columns_that_it_does_not_read(generations: Generations) -> None:
    generations.migrate(files("lines", COLUMNS))
    generations.execute("CREATE VIEW everything AS SELECT * FROM {schema}.lines")
    generations.execute("CREATE VIEW reading AS SELECT id, name FROM {schema}.lines l(id, name)")
    before = dumps(generations)
    wider = files("lines", COLUMNS.replace("m int", "m int, more int"))
    proved(generations, wider)
    generations.migrate(wider)
    assert dumps(generations) == before


OWN = files(
    "lines",
    "CREATE TYPE mood%SUFFIX% AS ENUM ('fine', 'so so'); CREATE SEQUENCE numbers%SUFFIX%;"
    " CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, mood mood%SUFFIX%);"
    " CREATE VIEW names%SUFFIX% AS SELECT id, name, mood FROM lines%SUFFIX%;"
    " CREATE FUNCTION twice%SUFFIX%(n bigint) RETURNS bigint LANGUAGE sql AS 'SELECT n * 2';",
)


def test_views_over_what_else_the_files_created_follow_too(generations: Generations) -> None:
    generations.migrate(OWN)
    generations.execute(
        "CREATE VIEW reading AS SELECT name, {schema}.twice(id) FROM {schema}.names WHERE mood = 'fine'"
    )
    proved(generations, OWN)
    shadows = generations.build(OWN)
    generations.execute("INSERT INTO {schema}.lines_2 (name, mood) VALUES ('new', 'fine')")
    assert generations.swap(shadows).repointed_views == ("public.reading",)
    assert generations.execute("SELECT * FROM reading") == [("new", 2)]


@pytest.mark.parametrize(
    ("statement", "described"),
    [
        ("CREATE TABLE t (mood {schema}.mood)", "table public.t.mood on mood"),
        (
            "CREATE TABLE t (n int DEFAULT nextval('{schema}.numbers'))",
            "default value for public.t.n on numbers",
        ),
        (
            "CREATE MATERIALIZED VIEW t AS SELECT name FROM {schema}.names",
            "materialized view public.t on names",
        ),
        ("CREATE TABLE t (n int CHECK ({schema}.twice(n) > 1))", "t_n_check on public.t on twice"),
    ],
)
def test_other_dependents_of_what_the_files_created_are_refused(
    generations: Generations, statement: str, described: str
) -> None:
    generations.migrate(OWN)
    generations.execute(statement)
    with pytest.raises(DependentObjects) as caught:
        proved(generations, OWN)
    assert described in str(caught.value)


def test_only_views_and_tables_of_the_swap_are_locked(generations: Generations, database_url: str) -> None:
    generation(generations, LINES, MORE)
    for statement in VIEWS:
        generations.execute(statement)
    shadows = generations.build(LINES, MORE)
    fill(generations)
    with psycopg.connect(database_url) as writer:
        # Somebody writes to a table that a view joins, and reads a view that reads none of ours.
        writer.execute("UPDATE countries SET id = 8")
        generations.execute("CREATE VIEW apart AS SELECT * FROM countries")
        writer.execute("SELECT * FROM apart")
        generations.swap(shadows, lock_timeout="200ms")
    assert generations.execute("SELECT a, country FROM {schema}.middle") == [(1, 8)]


def test_a_reader_of_a_view_holds_the_swap_up_until_its_timeout(
    generations: Generations, database_url: str
) -> None:
    generation(generations, LINES, MORE)
    for statement in VIEWS:
        generations.execute(statement)
    shadows = generations.build(LINES, MORE)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT * FROM a_outer")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            generations.swap(shadows, lock_timeout="50ms")
    assert generations.swap(shadows).repointed_views


def test_readers_of_views_see_neither_an_error_nor_a_mixture(
    generations: Generations, database_url: str
) -> None:
    """Views, tables and both in all orders, prepared and not, while the tables are swapped again and again."""
    generation(generations, LINES, MORE)
    for statement in VIEWS:
        generations.execute(statement)
    generation(generations, LINES, MORE)
    schema = sql.Identifier(VIEW_SCHEMA)
    queries = [
        sql.SQL(text).format(schema=schema)
        for text in (
            "SELECT DISTINCT b FROM a_outer",
            'SELECT "Näme %s" FROM z_inner',
            "SELECT l.name FROM {schema}.lines l JOIN z_inner z USING (id) JOIN {schema}.middle m ON m.a = l.id AND m.b = l.name",
            "SELECT m.b FROM {schema}.more JOIN {schema}.middle m ON m.b = name",
            "SELECT name FROM {schema}.lines",
        )
    ]
    is_over, seen, failures = threading.Event(), set[str](), list[BaseException]()

    def read(queries: list[sql.Composed], *, prepare: bool) -> None:
        try:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.prepare_threshold = 0 if prepare else None
                while not is_over.is_set():
                    for query in queries:
                        rows = connection.execute(query).fetchall()
                        assert len(rows) == 1, rows
                        seen.add(rows[0][0])
        except BaseException as error:
            failures.append(error)

    readers = [
        threading.Thread(target=read, args=(order,), kwargs={"prepare": prepare})
        for order, prepare in ((queries, False), (queries[::-1], True))
    ]
    for reader in readers:
        reader.start()
    swaps = 0
    try:
        for _ in range(100):
            try:
                generations.swap(
                    {item.table: item for item in generations.retired.values()},
                    version=1 + swaps % 2,
                    lock_timeout="200ms",
                )
            except psycopg.errors.LockNotAvailable:
                # One statement that comes to a table first and then to a view of it.
                continue
            swaps += 1
            if swaps == 10 or failures:
                break
    finally:
        is_over.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert swaps == 10
    assert seen == {"generation 1", "generation 2"}


def test_a_reader_that_meets_the_swap_head_on_goes_first(generations: Generations, database_url: str) -> None:
    generation(generations, LINES, MORE)
    for statement in VIEWS:
        generations.execute(statement)
    shadows = generations.build(LINES, MORE)
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = '{schema}.lines'::regclass)"
    )
    refused: list[BaseException] = []

    def swap() -> None:
        try:
            generations.swap(shadows, lock_timeout="10s")
        except BaseException as error:
            refused.append(error)

    with psycopg.connect(database_url) as reader, psycopg.connect(database_url, autocommit=True) as observer:
        reader.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(VIEW_SCHEMA, "lines")))
        swapping = threading.Thread(target=swap)
        swapping.start()
        query = sql.SQL(waiting).format(schema=sql.Identifier(VIEW_SCHEMA))
        while swapping.is_alive() and observer.execute(query).fetchone() != (True,):
            pass
        # It has the view and waits for the table; we have the table and wait for the view.
        assert reader.execute("SELECT DISTINCT b FROM a_outer").fetchall() == [("generation 1",)]
        swapping.join()
    assert [type(error) for error in refused] == [psycopg.errors.LockNotAvailable]
    assert generations.swap(shadows).repointed_views


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("ALTER TABLE lines DROP n;", r"other objects depend on it.*view reading depends on column n"),
        ("ALTER TABLE lines ALTER n TYPE bigint;", r"cannot alter type of a column used by a view.*reading"),
    ],
)
def test_an_alter_file_that_a_view_stands_in_the_way_of_fails_in_the_trial(
    generations: Generations, text: str, match: str
) -> None:
    generations.migrate(LINES)
    generations.execute("CREATE VIEW reading AS SELECT id, n FROM {schema}.lines")
    added = TableFiles("lines", LINES.create_sql.replace("n int", "n int, m int"), LINES.indexes_sql)
    with pytest.raises(TableFileError, match=match):
        generations.trial(alters=[AlterScript(shape("lines"), 2, text, added)])
    add = AlterScript(shape("lines"), 2, "ALTER TABLE lines ADD m int;", added)
    generations.trial(alters=[add])
    generations.swap({}, alters=[add])
    assert generations.execute("SELECT count(*) FROM reading") == [(0,)]


@contextmanager
def reading_meanwhile(database_url: str, query: LiteralString) -> Iterator[set[tuple[Any, ...]]]:
    """Read without a pause while the block runs; what was seen, and any error when it ends."""
    is_over, seen, failures = threading.Event(), set[tuple[Any, ...]](), list[BaseException]()

    def read() -> None:
        try:
            with psycopg.connect(database_url, autocommit=True) as connection:
                while not is_over.is_set():
                    seen.add(tuple(connection.execute(query).fetchall()))
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        is_over.set()
        reader.join()
    assert failures == []


@pytest.mark.parametrize("command", ["offline", "golive"])
def test_a_migration_re_points_views_and_is_stopped_by_one_that_cannot_follow(
    store_database_url: str, database_prefix: str, command: str
) -> None:
    # The migrator replaces views that are its own; those of others it names.
    migrator = sql.Identifier(f"{database_prefix}_migrator")
    with (
        shop(store_database_url) as app,
        shop(store_database_url, Shop2) as newer,
        psycopg.connect(store_database_url, autocommit=True) as connection,
    ):
        place_orders(app, range(6))
        app.view_schema.online()
        app.view_schema.offline()
        connection.execute("CREATE VIEW totals AS SELECT customer, total FROM view_schema.order_records")
        connection.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(migrator))
        connection.execute(sql.SQL("ALTER VIEW totals OWNER TO {}").format(migrator))
        before = connection.execute("SELECT * FROM totals ORDER BY 1").fetchall()
        # The row's type is created anew with the table.
        rows = "CREATE VIEW rows AS SELECT o FROM view_schema.order_records o"
        connection.execute(rows)
        connection.execute(sql.SQL("ALTER VIEW rows OWNER TO {}").format(migrator))
        with pytest.raises(
            DependentObjects, match=r"The view public\.rows cannot read the new tables: its column o"
        ):
            newer.view_schema.online()
        with pytest.raises(DependentObjects, match=r"public\.rows"):
            newer.view_schema.dry_run()
        connection.execute("DROP VIEW rows")
        newer.view_schema.online()
        connection.execute(rows)
        with pytest.raises(DependentObjects, match=r"public\.rows"):
            getattr(newer.view_schema, command)()
        connection.execute("DROP VIEW rows")
        with reading_meanwhile(store_database_url, "SELECT * FROM totals ORDER BY 1") as seen:
            report = getattr(newer.view_schema, command)()
        assert report.repointed_views == ("public.totals",)
        assert seen == {tuple(before)}
        assert connection.execute("SELECT * FROM totals ORDER BY 1").fetchall() == before
        read = connection.execute(
            "SELECT count(*) > 0 FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid"
            " WHERE r.ev_class = 'totals'::regclass AND d.refobjid = 'view_schema.order_records'::regclass"
        ).fetchone()
        assert read == (True,)
