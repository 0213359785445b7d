"""The trial, the executor and the drops, on a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from table_generations import VIEW_SCHEMA, Generations, files, objects, shape
from waiting import wait_until

from sequent_py.errors import DefinitionError, DependentObjects, MigrationError, TableFileError
from sequent_py.view_schema.ddl import executor, index_builds
from sequent_py.view_schema.ddl.executor import AlterScript
from sequent_py.view_schema.ddl.table_files import TableFiles

CREATE = "CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL);\n"
LINES = files("lines", CREATE, "CREATE INDEX lines_name%SUFFIX% ON lines%SUFFIX% (name);")


@pytest.fixture
def generations(database_url: str) -> Iterator[Generations]:
    made = Generations(database_url)
    yield made
    made.close()


def everything(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Return all that the database has outside the system's schemas."""
    return connection.execute(
        "SELECT n.nspname, c.relname, c.relkind FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid "
        "WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1, 2"
    ).fetchall()


def refused(generations: Generations, *tables: TableFiles, match: str, **options: Any) -> str:
    """Return the message of a trial that must fail and leave nothing."""
    before = everything(generations.connection)
    with pytest.raises(TableFileError, match=match) as caught:
        generations.trial(*tables, **options)
    assert everything(generations.connection) == before
    assert generations.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    return str(caught.value)


def test_a_trial_leaves_nothing_behind(generations: Generations) -> None:
    before = everything(generations.connection)
    result = generations.trial(LINES)
    assert everything(generations.connection) == before
    assert {(item.kind, item.name, item.plain) for item in result.blueprints["lines"].names} >= {
        ("table", "lines_1", "lines"),
        ("sequence", "lines_1_id_seq", "lines_id_seq"),
        ("key", "lines_1_pkey", "lines_pkey"),
        ("index", "lines_name_1", "lines_name"),
    }
    assert [column.name for column in result.columns["lines"]] == ["id", "name"]
    assert len(result.fingerprint) == 64


def test_a_trial_inside_a_transaction_leaves_that_open(generations: Generations) -> None:
    with generations.connection.transaction():
        generations.connection.execute("SET LOCAL lock_timeout = '77s'")
        generations.trial(LINES)
        assert generations.connection.execute("SHOW lock_timeout").fetchone() == ("77s",)


def test_dollar_quotes_blocks_and_odd_characters_pass_whole(generations: Generations) -> None:
    create = """
        -- a comment; with a semicolon, a quote ' and 100% of %s
        CREATE TABLE lines%SUFFIX% (id int PRIMARY KEY, name text NOT NULL DEFAULT ';%%');
        CREATE FUNCTION lines_touch%SUFFIX%() RETURNS trigger LANGUAGE plpgsql AS $body$
        BEGIN NEW.name := NEW.name || $x$;%$x$; RETURN NEW; END $body$;
        CREATE TRIGGER touch BEFORE INSERT ON lines%SUFFIX% FOR EACH ROW EXECUTE FUNCTION lines_touch%SUFFIX%();
        DO $$ BEGIN IF 1 % 2 = 1 THEN EXECUTE 'COMMENT ON TABLE lines%SUFFIX% IS ''a; b'''; END IF; END $$;
        /* a block comment; /* nested */ */
        SELECT 1;
    """
    generations.migrate(files("lines", create))
    generations.execute("INSERT INTO {schema}.lines (id, name) VALUES (1, 'x')")
    assert generations.execute("SELECT name FROM {schema}.lines") == [("x;%",)]


@pytest.mark.parametrize(
    "text",
    ["COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT s", "PREPARE TRANSACTION 'x'", "END", "ROLLBACK; BEGIN"],
)
def test_transaction_control_cannot_slip_through(generations: Generations, text: str) -> None:
    for item in (files("lines", f"{CREATE} {text};"), files("lines", CREATE, f"{text}; -- %SUFFIX%")):
        refused(generations, item, match="transaction control")


def test_transaction_control_inside_a_block_cannot_slip_through(generations: Generations) -> None:
    refused(
        generations,
        files("lines", CREATE + "DO $$ BEGIN COMMIT; END $$;"),
        match="transaction control inside a block",
    )


def test_an_sql_error_names_file_line_and_message(generations: Generations) -> None:
    broken = files("lines", "-- é\n\nCREATE TABLE lines%SUFFIX% (\n  id itn PRIMARY KEY);")
    refused(generations, broken, match=r'lines\.sql, line 4, column 6: type "itn" does not exist\.')
    broken = files("lines", CREATE, "CREATE INDEX i%SUFFIX% ON lines%SUFFIX% (nme);")
    refused(generations, broken, match=r'lines\.indexes\.sql: column "nme" does not exist')


@pytest.mark.parametrize(
    ("create", "named"),
    [
        (CREATE + "CREATE INDEX lines_name ON lines%SUFFIX% (name);", "lines_name"),
        (
            "CREATE TABLE lines%SUFFIX% (id int CONSTRAINT lines_key PRIMARY KEY, name text NOT NULL);",
            "lines_key",
        ),
        (CREATE + "CREATE SEQUENCE lines_seq;", "lines_seq"),
        (CREATE + "CREATE VIEW lines_view AS VALUES (1);", "lines_view"),
        (CREATE + "CREATE STATISTICS lines_stats ON id, name FROM lines%SUFFIX%;", "lines_stats"),
        (CREATE + "CREATE TABLE lines_extra (id int);", "lines_extra"),
        (CREATE + "CREATE TYPE mood AS ENUM ('a');", "mood"),
        (CREATE + "CREATE INDEX IF NOT EXISTS lines_name ON lines%SUFFIX% (name);", "lines_name"),
        (CREATE + "CREATE OR REPLACE VIEW lines_view AS TABLE lines%SUFFIX%;", "lines_view"),
    ],
)
def test_a_name_without_suffix_is_found_in_the_first_migration(
    generations: Generations, create: str, named: str
) -> None:
    assert named in refused(generations, files("lines", create), match="suffix|%SUFFIX%")


def test_a_file_that_does_not_create_its_table_is_refused(generations: Generations) -> None:
    message = refused(
        generations,
        files("lines", "CREATE TABLE line%SUFFIX% (id int);"),
        match="does not create the table lines",
    )
    assert "it creates table line" in message
    refused(generations, files("lines", "SELECT 1 -- %SUFFIX%"), match="it creates nothing")
    refused(
        generations, files("lines", "CREATE VIEW lines%SUFFIX% AS SELECT 1"), match="it creates view lines"
    )


@pytest.mark.parametrize(
    ("create", "match"),
    [
        ("CREATE TABLE public.lines%SUFFIX% (id int);", "in the schema public, which it names itself"),
        (
            CREATE + "CREATE FUNCTION public.f%SUFFIX%() RETURNS int LANGUAGE sql AS 'SELECT 1';",
            "in the schema public",
        ),
        (CREATE + "CREATE SCHEMA s%SUFFIX%;", "creates the schema s"),
        (CREATE + "CREATE PUBLICATION p%SUFFIX% FOR TABLE lines%SUFFIX%;", "creates the publication p"),
        (CREATE + "CREATE TYPE r%SUFFIX% AS RANGE (subtype = int);", "creates the type r"),
        ("CREATE TEMPORARY TABLE lines%SUFFIX% (id int);", "temporary"),
        (CREATE + "SET search_path = public;", "changes the setting search_path"),
        (
            CREATE + "SET lock_timeout = 0; SELECT set_config('work_mem', '1MB', false);",
            "setting lock_timeout, work_mem",
        ),
        (CREATE + "SET ROLE pg_monitor;", "setting role"),
        (CREATE + "CREATE INDEX CONCURRENTLY i%SUFFIX% ON lines%SUFFIX% (name);", "Remove CONCURRENTLY"),
        (
            CREATE + f"CREATE INDEX {'i' * 63}%SUFFIX% ON lines%SUFFIX% (name);",
            "longer than 63 bytes.*will be truncated",
        ),
        (
            CREATE + f'CREATE INDEX "{"é" * 31}%SUFFIX%" ON lines%SUFFIX% (name);',
            "longer than 63 bytes.*will be truncated",
        ),
        (CREATE + "COMMENT ON TABLE lines%SUFFIX% IS 'of %SUFFIX%';", "comment: 'of _1' instead of 'of '"),
        (
            CREATE + "ALTER TABLE lines%SUFFIX% ALTER id SET DEFAULT nextval('lines%SUFFIX%_id_seq'::text);",
            "would differ",
        ),
        (
            CREATE + "CREATE FUNCTION f%SUFFIX%() RETURNS int LANGUAGE sql AS 'SELECT 1';"
            "CREATE FUNCTION f%SUFFIX%(int) RETURNS int LANGUAGE sql AS 'SELECT 1';",
            "overloads",
        ),
    ],
)
def test_what_a_swap_could_not_follow_is_refused(generations: Generations, create: str, match: str) -> None:
    refused(generations, files("lines", create), match=match)


def test_a_table_whose_name_leaves_no_room_for_the_suffix_is_refused(generations: Generations) -> None:
    long = files("l" * 61, f"CREATE TABLE {'l' * 61}%SUFFIX% (id int PRIMARY KEY, name text NOT NULL);")
    refused(generations, long, match="64 bytes long", version=10)
    generations.trial(long, version=9)


def test_relations_of_others_are_neither_taken_nor_touched(generations: Generations) -> None:
    generations.execute("CREATE SCHEMA {schema}")
    generations.execute("CREATE TABLE {schema}.lines_1 (id int)")
    refused(generations, LINES, match=r'"lines_1" already exists.* no part of a view migration')
    generations.execute("ALTER TABLE {schema}.lines_1 RENAME TO lines")
    refused(generations, LINES, match="has a table lines that no view migration made")
    generations.execute("ALTER TABLE {schema}.lines RENAME TO other")
    generations.execute("CREATE INDEX lines_name ON {schema}.other (id)")
    refused(
        generations, LINES, match="index lines_name_1 of lines will be called lines_name .* something else"
    )


def test_a_file_that_changes_or_drops_another_relation_is_refused(generations: Generations) -> None:
    generations.migrate(LINES)
    refused(
        generations,
        files("lines", CREATE + "ALTER TABLE lines ADD extra int;"),
        match="without|changes lines",
    )
    schema = f'"{VIEW_SCHEMA.replace(chr(34), chr(34) * 2)}"'
    refused(
        generations,
        files("lines", CREATE + f"ALTER TABLE {schema}.lines ADD extra int;"),
        match="changes lines",
    )
    refused(generations, files("lines", CREATE + f"DROP TABLE {schema}.lines;"), match="drops lines")
    refused(
        generations,
        files("lines", CREATE + f"CREATE INDEX i%SUFFIX% ON {schema}.lines (name);"),
        match=r"in the schema|which it did not create",
    )


def test_a_file_may_drop_its_own_table_first(generations: Generations) -> None:
    habit = files("lines", "DROP TABLE IF EXISTS lines%SUFFIX%;" + CREATE)
    generations.migrate(habit)
    generations.migrate(habit)


def test_objects_of_the_view_schema_are_found(generations: Generations) -> None:
    generations.execute("CREATE SCHEMA {schema}")
    generations.execute("CREATE TYPE {schema}.mood AS ENUM ('fine')")
    moody = files("lines", "CREATE TABLE lines%SUFFIX% (id int PRIMARY KEY, name text NOT NULL, mood mood);")
    generations.migrate(moody)
    generations.migrate(moody)


def test_a_function_may_be_shared_by_all_generations(generations: Generations) -> None:
    def shared(body: str) -> TableFiles:
        return files(
            "lines",
            CREATE
            + f"CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;"
            "CREATE TRIGGER stamp BEFORE INSERT ON lines%SUFFIX% FOR EACH ROW EXECUTE FUNCTION stamp();",
        )

    generations.migrate(shared(""))
    generations.migrate(shared(""))
    refused(
        generations,
        shared("NEW.name := '!';"),
        match="change the function stamp, which the tables that serve use too",
    )


def test_a_function_may_be_called_like_its_trigger(generations: Generations) -> None:
    stamped = files(
        "lines",
        CREATE
        + "CREATE FUNCTION stamp%SUFFIX%() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
        "CREATE TRIGGER stamp%SUFFIX% BEFORE INSERT ON lines%SUFFIX% FOR EACH ROW EXECUTE FUNCTION stamp%SUFFIX%();",
    )
    generations.migrate(stamped)
    generations.migrate(stamped)


def test_all_mismatches_with_the_records_come_in_one_error(generations: Generations) -> None:
    other = files("orders", "CREATE TABLE orders%SUFFIX% (id text PRIMARY KEY, name text NOT NULL);")
    message = refused(
        generations,
        files("lines", "CREATE TABLE lines%SUFFIX% (id int PRIMARY KEY);"),
        other,
        match="do not agree",
    )
    assert "lines.sql: " in message
    assert "orders.sql: " in message


def test_references_between_tables_of_a_plan_need_the_suffix(generations: Generations) -> None:
    def orders(target: str) -> TableFiles:
        return files(
            "orders",
            f"CREATE TABLE orders%SUFFIX% (id int PRIMARY KEY, name text NOT NULL, line bigint REFERENCES {target});",
        )

    generations.migrate(LINES, orders("lines%SUFFIX%"))
    generations.trial(LINES, orders("lines%SUFFIX%"))
    refused(generations, LINES, orders("lines"), match="would differ after the swap")
    generations.trial(orders("lines"))


def test_a_trial_gives_up_on_a_held_table(generations: Generations, database_url: str) -> None:
    generations.migrate(LINES)
    orders = files(
        "orders",
        "CREATE TABLE orders%SUFFIX% (id int PRIMARY KEY, name text NOT NULL, line bigint REFERENCES lines);",
    )
    with psycopg.connect(database_url) as other:
        other.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(VIEW_SCHEMA, "lines")))
        with pytest.raises(psycopg.errors.LockNotAvailable):
            executor.trial(
                generations.connection,
                view_schema=VIEW_SCHEMA,
                replays=[(shape("orders"), orders)],
                alters=[],
                target_version=2,
                live=generations.live,
                lock_timeout_seconds=0.1,
            )


def test_a_trial_needs_no_lock_on_the_tables_that_serve(generations: Generations, database_url: str) -> None:
    generations.migrate(LINES)
    with psycopg.connect(database_url) as other:
        other.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(VIEW_SCHEMA, "lines"))
        )
        generations.connection.execute("SET lock_timeout = '1ms'")
        generations.trial(LINES)
        generations.build(LINES)


def test_an_alters_trial_lets_readers_and_writers_go_on(generations: Generations, database_url: str) -> None:
    generations.migrate(LINES)
    with psycopg.connect(database_url) as other:
        other.execute(
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(sql.Identifier(VIEW_SCHEMA, "lines"))
        )
        generations.trial(alters=[alter("ALTER TABLE lines ADD n int DEFAULT 1")])


def alter(
    text: str,
    version: int = 2,
    create: str = "CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, n int DEFAULT 1);",
    indexes: str | None = LINES.indexes_sql,
) -> AlterScript:
    return AlterScript(shape("lines"), version, text, files("lines", create, indexes))


def test_an_alter_is_tried_on_a_copy(generations: Generations) -> None:
    generations.migrate(LINES)
    generations.execute("INSERT INTO {schema}.lines (name) VALUES ('kept')")
    generations.execute(
        "CREATE TRIGGER t BEFORE UPDATE ON {schema}.lines EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    before = everything(generations.connection)
    generations.trial(
        alters=[
            alter(
                "ALTER TABLE lines ADD m int; UPDATE lines SET m = 1; DROP INDEX lines_name; DROP TRIGGER t ON lines;",
                2,
                indexes=None,
            ),
            alter(
                "ALTER TABLE lines DROP m, ADD n int DEFAULT 1, DROP CONSTRAINT lines_pkey, ADD PRIMARY KEY (id);",
                3,
                indexes=None,
            ),
        ]
    )
    assert everything(generations.connection) == before


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE lines ADD n bigint DEFAULT 1",
        "ALTER TABLE lines ADD n int",
        "ALTER TABLE lines ADD n int NOT NULL DEFAULT 1",
        "ALTER TABLE lines ADD n int GENERATED ALWAYS AS (1) STORED",
        "ALTER TABLE lines ADD n int DEFAULT 1, ADD o int",
        "ALTER TABLE lines ADD m int DEFAULT 1",
        "ALTER TABLE lines ADD n int DEFAULT 1, ALTER id DROP DEFAULT",
        "SELECT 1",
    ],
)
def test_an_alter_that_leads_elsewhere_is_a_definition_error(generations: Generations, text: str) -> None:
    generations.migrate(LINES)
    with pytest.raises(
        DefinitionError, match=r"lines_2\.sql and lines\.sql lead to different columns of lines: "
    ):
        generations.trial(alters=[alter(text)])


RICH = """CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name varchar(9) NOT NULL, u int, r int4range,
    CONSTRAINT lines_name_known%SUFFIX% CHECK (name IN ('a', 'b')), CONSTRAINT lines_u%SUFFIX% UNIQUE (u),
    CONSTRAINT lines_r%SUFFIX% EXCLUDE USING gist (r WITH &&));"""
RICH_INDEXES = "CREATE INDEX lines_some%SUFFIX% ON lines%SUFFIX% (lower(name)) WHERE name IN ('a', 'b');"


def rich_alter(text: str, create: str = RICH, indexes: str = RICH_INDEXES, version: int = 2) -> AlterScript:
    return alter(text, version, create, indexes)


@pytest.mark.parametrize(
    ("text", "difference"),
    [
        ("CREATE INDEX lines_more ON lines (u)", "index lines_more: CREATE INDEX lines_more ON lines"),
        ("DROP INDEX lines_some", "index lines_some: none after"),
        ("DROP INDEX lines_some; CREATE INDEX lines_some ON lines (u)", "index lines_some: CREATE INDEX"),
        ("ALTER INDEX lines_some RENAME TO lines_any", "index lines_some: none after .*; index lines_any:"),
        ("ALTER TABLE lines DROP CONSTRAINT lines_name_known", "constraint lines_name_known: none after"),
        ("ALTER TABLE lines ADD CONSTRAINT more CHECK (u > 0)", r"constraint more: CHECK \(u > 0\) after"),
        ("ALTER TABLE lines DROP CONSTRAINT lines_u", r"constraint lines_u: none .* UNIQUE \(u\) in"),
        ("ALTER TABLE lines DROP CONSTRAINT lines_u, ADD CONSTRAINT lines_u UNIQUE (u, r)", "constraint lines_u"),
        ("ALTER TABLE lines DROP CONSTRAINT lines_u; CREATE UNIQUE INDEX lines_u ON lines (u)", "constraint lines_u"),
        ("ALTER TABLE lines DROP CONSTRAINT lines_pkey, ALTER id SET NOT NULL", "constraint lines_pkey: none"),
        ("ALTER TABLE lines DROP CONSTRAINT lines_r", "constraint lines_r: none"),
    ],
)  # fmt: skip
def test_an_alter_that_leads_to_other_constraints_or_indexes_is_a_definition_error(
    generations: Generations, text: str, difference: str
) -> None:
    generations.migrate(files("lines", RICH, RICH_INDEXES))
    with pytest.raises(
        DefinitionError,
        match=r"lines_2\.sql and lines\.sql with lines\.indexes\.sql lead to different constraints and indexes of lines: "
        f".*{difference}",
    ):
        generations.trial(alters=[rich_alter(text)])


def test_a_new_index_or_check_of_the_files_must_be_in_the_alter(generations: Generations) -> None:
    generations.migrate(files("lines", RICH, RICH_INDEXES))
    newer = RICH_INDEXES + "CREATE INDEX lines_more%SUFFIX% ON lines%SUFFIX% (u);"
    with pytest.raises(DefinitionError, match="index lines_more: none after"):
        generations.trial(alters=[rich_alter("SELECT 1", indexes=newer)])
    generations.trial(alters=[rich_alter("CREATE INDEX lines_more ON lines (u)", indexes=newer)])
    # What the files no longer have, and an alter has not dropped, was not made by hand.
    with pytest.raises(DefinitionError, match="index lines_some: CREATE"):
        generations.trial(alters=[rich_alter("SELECT 1", indexes="")])
    wider = RICH.replace("('a', 'b')", "('a', 'b', 'c')")
    with pytest.raises(DefinitionError, match="constraint lines_name_known: CHECK"):
        generations.trial(alters=[rich_alter("SELECT 1", create=wider)])


def test_what_was_done_to_the_live_table_by_hand_is_none_of_an_alters_doing(generations: Generations) -> None:
    generations.migrate(files("lines", RICH, RICH_INDEXES))
    for statement in (
        "CREATE INDEX by_hand ON {schema}.lines (u)",
        "ALTER TABLE {schema}.lines ADD CONSTRAINT hand_made CHECK (u > 0), ADD CONSTRAINT hand_key UNIQUE (name)",
        "ALTER TABLE {schema}.lines ADD CONSTRAINT hand_reference FOREIGN KEY (id) REFERENCES {schema}.lines (id)",
        "DROP INDEX {schema}.lines_some",
        # Now the constraint is older than its index.
        "REINDEX INDEX CONCURRENTLY {schema}.lines_pkey",
    ):
        generations.execute(statement)
    generations.trial(alters=[rich_alter("SELECT 1")])


def test_what_an_earlier_alter_made_counts_as_the_files(generations: Generations) -> None:
    generations.migrate(files("lines", RICH, RICH_INDEXES))
    generations.swap({}, version=2, alters=[rich_alter("CREATE INDEX lines_more ON lines (u)")])
    with pytest.raises(DefinitionError, match="index lines_more: CREATE"):
        generations.trial(alters=[rich_alter("SELECT 1", version=3)])


def test_definitions_that_a_restore_has_reworded_are_still_the_same(generations: Generations) -> None:
    generations.migrate(files("lines", RICH, RICH_INDEXES))
    # As pg_dump wrote them, which the server reads with other casts than the files.
    check, index = generations.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'lines_name_known' "
        "UNION ALL SELECT pg_get_indexdef(oid) FROM pg_class WHERE relname = 'lines_some'"
    )
    generations.execute("ALTER TABLE {schema}.lines DROP CONSTRAINT lines_name_known")
    generations.execute("DROP INDEX {schema}.lines_some")
    generations.execute(f"ALTER TABLE {{schema}}.lines ADD CONSTRAINT lines_name_known {check[0]}")
    generations.connection.execute(index[0])
    reworded = generations.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'lines_name_known'"
    )
    assert reworded != [check]
    generations.trial(alters=[rich_alter("SELECT 1")])


def test_an_alter_that_fails_or_names_a_schema_is_refused(generations: Generations) -> None:
    generations.migrate(LINES)
    schema = f'"{VIEW_SCHEMA.replace(chr(34), chr(34) * 2)}"'
    for text, match in [
        ("ALTER TABLE lines ADD n itn;", r"lines_2\.sql.*itn"),
        (f"ALTER TABLE {schema}.lines ADD n int DEFAULT 1;", "changes lines"),
        ("ALTER TABLE lines ADD n int DEFAULT 1; COMMIT;", "transaction control"),
    ]:
        with pytest.raises(TableFileError, match=match):
            generations.trial(alters=[alter(text)])


def test_indexes_are_built_in_parallel_each_with_its_mark(
    generations: Generations, database_url: str
) -> None:
    tables = [
        files(f"lines_{letter}", f"CREATE TABLE lines_{letter}%SUFFIX% (id int, name text NOT NULL);",
              f"ALTER TABLE lines_{letter}%SUFFIX% ADD PRIMARY KEY (id);")
        for letter in "abc"
    ]  # fmt: skip
    tried = generations.trial(*tables)
    with generations.connection.transaction():
        created = executor.create_shadow_tables(
            generations.connection, view_schema=VIEW_SCHEMA, replays=[(shape(item.table), item) for item in tables],
            blueprints=tried.blueprints, target_version=1,
        )  # fmt: skip
    generations.execute("INSERT INTO {schema}.lines_b_1 VALUES (1, 'x'), (1, 'y')")
    generations.execute("CREATE TABLE marks (name text)")
    options: dict[str, Any] = {
        "view_schema": VIEW_SCHEMA,
        "files": tables,
        "blueprints": {item.table: item for item in created},
        "target_version": 1,
        "on_built": lambda connection, blueprint: connection.execute(
            "INSERT INTO marks VALUES (%s)", (blueprint.table,)
        ),
        "parallel": 3,
    }
    with pytest.raises(
        TableFileError,
        match=r"lines_b\.indexes\.sql: could not create unique index .*Key \(id\)=\(1\) is duplicated",
    ):
        index_builds.build_indexes(lambda: psycopg.connect(database_url, autocommit=True), **options)
    assert sorted(generations.execute("SELECT name FROM marks")) == [("lines_a",), ("lines_c",)]
    generations.execute("DELETE FROM {schema}.lines_b_1 WHERE name = 'y'")
    options["files"] = tables[1:2]
    index_builds.build_indexes(lambda: psycopg.connect(database_url, autocommit=True), **options)
    assert len(generations.execute("SELECT name FROM marks")) == 3
    assert ("i", "lines_b_1_pkey") in objects(generations.connection, VIEW_SCHEMA)


@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize("letters", ["a", "ab"])
def test_what_is_done_while_indexes_are_built_ends_the_builds_when_it_fails(
    generations: Generations, database_url: str, letters: str, parallel: int
) -> None:
    tables = [
        files(f"lines_{letter}", f"CREATE TABLE lines_{letter}%SUFFIX% (id int, name text NOT NULL);",
              f"DO $$ BEGIN PERFORM pg_sleep(600) FROM lines_{letter}%SUFFIX%; END $$; ALTER TABLE lines_{letter}%SUFFIX% ADD PRIMARY KEY (id);")
        for letter in letters
    ]  # fmt: skip
    tried = generations.trial(*tables)
    with generations.connection.transaction():
        created = executor.create_shadow_tables(
            generations.connection, view_schema=VIEW_SCHEMA, replays=[(shape(item.table), item) for item in tables],
            blueprints=tried.blueprints, target_version=1,
        )  # fmt: skip
    for letter in letters:
        generations.execute(f"INSERT INTO {{schema}}.lines_{letter}_1 VALUES (1, 'x')")  # noqa: S608
    built: list[str] = []

    def building() -> int:
        [row] = generations.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        )
        return int(row[0])

    def interrupted() -> None:
        wait_until(lambda: building() == min(parallel, len(letters)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_builds.build_indexes(
            lambda: psycopg.connect(database_url, autocommit=True),
            view_schema=VIEW_SCHEMA,
            files=tables,
            blueprints={item.table: item for item in created},
            target_version=1,
            on_built=lambda _connection, blueprint: built.append(blueprint.table),
            meanwhile=interrupted,
            parallel=parallel,
        )
    assert building() == 0
    assert built == []


def test_indexes_files_may_need_each_others_keys(generations: Generations) -> None:
    create = "CREATE TABLE {0}%SUFFIX% (id int, name text NOT NULL);"
    first = "ALTER TABLE a%SUFFIX% ADD PRIMARY KEY (id);"
    second = "ALTER TABLE b%SUFFIX% ADD PRIMARY KEY (id); ALTER TABLE b%SUFFIX% ADD FOREIGN KEY (id) REFERENCES a%SUFFIX%;"
    tables = [files("a", create.format("a"), first), files("b", create.format("b"), second)]
    for _ in range(3):
        generations.migrate(*tables, parallel=2)


def test_an_automatic_name_that_was_taken_meanwhile_is_recorded_as_it_came(generations: Generations) -> None:
    table = files("lines", "CREATE TABLE lines%SUFFIX% (id int, name text NOT NULL);",
                  "ALTER TABLE lines%SUFFIX% ADD PRIMARY KEY (id); CREATE INDEX ON lines%SUFFIX% (name);")  # fmt: skip
    shadows = generations.build(
        table, fill=lambda _: generations.execute("CREATE TABLE {schema}.lines_1_name_idx (id int)")
    )
    assert {item.name: item.plain for item in shadows["lines"].names}["lines_1_name_idx1"] == "lines_name_idx"
    generations.swap(shadows)
    assert ("i", "lines_name_idx") in objects(generations.connection, VIEW_SCHEMA)


def test_tables_are_dropped_by_exact_name(generations: Generations) -> None:
    generations.execute("CREATE SCHEMA {schema}")
    for name in ("lines_1", "lines_11", 'odd"name_1', "lines1"):
        generations.execute("CREATE TABLE {schema}.{name} (id int)", name=name)
    dropped = executor.drop_tables(generations.connection, VIEW_SCHEMA, ["lines_1", 'odd"name_1', "gone_1"])
    assert sorted(dropped) == ["lines_1", 'odd"name_1']
    assert objects(generations.connection, VIEW_SCHEMA) == {("r", "lines_11"), ("r", "lines1")}


def test_a_drop_never_takes_dependents_along(generations: Generations) -> None:
    generations.execute("CREATE SCHEMA {schema}")
    generations.execute("CREATE TABLE {schema}.lines_1 (id int)")
    generations.execute("CREATE TABLE {schema}.orders_1 (id int)")
    generations.execute("CREATE VIEW public.reader AS SELECT * FROM {schema}.lines_1")
    with pytest.raises(DependentObjects, match=r"view reader depends on table .*Nothing was dropped"):
        executor.drop_tables(generations.connection, VIEW_SCHEMA, ["orders_1", "lines_1"])
    assert {name for _, name in objects(generations.connection, VIEW_SCHEMA)} == {"lines_1", "orders_1"}


def test_a_drop_gives_up_on_a_table_in_use_and_names_who(generations: Generations, database_url: str) -> None:
    generations.execute("CREATE SCHEMA {schema}")
    generations.execute("CREATE TABLE {schema}.lines_1 (id int)")
    with psycopg.connect(database_url, application_name="the reader") as other:
        other.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(VIEW_SCHEMA, "lines_1")))
        with pytest.raises(MigrationError, match=rf"backend {other.info.backend_pid} \(.*the reader"):
            executor.drop_tables(generations.connection, VIEW_SCHEMA, ["lines_1"], lock_timeout_seconds=0.1)
    with generations.connection.transaction():
        generations.connection.execute("SET LOCAL lock_timeout = '9s'")
        assert executor.drop_tables(generations.connection, VIEW_SCHEMA, ["lines_1"]) == ["lines_1"]
        assert generations.connection.execute("SHOW lock_timeout").fetchone() == ("9s",)


def test_a_dropped_blueprint_leaves_nothing_and_can_be_dropped_again(generations: Generations) -> None:
    create = """
        CREATE TYPE mood%SUFFIX% AS ENUM ('fine');
        CREATE SEQUENCE lines_numbers%SUFFIX%;
        CREATE FUNCTION lines_check%SUFFIX%(mood%SUFFIX%) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
        CREATE TABLE lines%SUFFIX% (id bigint PRIMARY KEY DEFAULT nextval('lines_numbers%SUFFIX%'), name text NOT NULL,
            mood mood%SUFFIX% CHECK (lines_check%SUFFIX%(mood)));
        CREATE VIEW lines_view%SUFFIX% AS SELECT * FROM lines%SUFFIX%;
        CREATE MATERIALIZED VIEW lines_copy%SUFFIX% AS SELECT * FROM lines_view%SUFFIX%;
        CREATE FUNCTION lines_count%SUFFIX%() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM lines%SUFFIX%; END;
    """
    shadows = generations.build(files("lines", create))
    dropped = executor.drop_blueprints(generations.connection, VIEW_SCHEMA, shadows.values())
    assert "lines_1" in dropped
    assert objects(generations.connection, VIEW_SCHEMA) == set()
    assert executor.drop_blueprints(generations.connection, VIEW_SCHEMA, shadows.values()) == []
