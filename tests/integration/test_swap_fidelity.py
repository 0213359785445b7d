"""Whatever was done to a serving table by hand follows it, is refused, or is named in a warning before the migration begins."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from table_generations import VIEW_SCHEMA, Generations, dump, files, objects, plan

from sequent_py.errors import DependentObjects
from sequent_py.view_schema.ddl import executor
from sequent_py.view_schema.ddl.table_files import TableFiles
from sequent_py.view_schema.tables import dependents

LINES = files(
    "lines",
    "CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, n int, r int4range, CONSTRAINT small CHECK (n < 100));",
    "CREATE INDEX lines_name%SUFFIX% ON lines%SUFFIX% (name);",
)
STANDING = files(
    "lines",
    "CREATE TYPE mood%SUFFIX% AS ENUM ('fine'); CREATE DOMAIN cents%SUFFIX% AS bigint; CREATE TYPE pair%SUFFIX% AS (a int, b int);"
    " CREATE SEQUENCE numbers%SUFFIX%;"
    " CREATE TABLE lines%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, m mood%SUFFIX%, c cents%SUFFIX%, p pair%SUFFIX%);"
    " CREATE VIEW names%SUFFIX% AS SELECT id, name FROM lines%SUFFIX%;"
    " CREATE MATERIALIZED VIEW copy%SUFFIX% AS SELECT id, name FROM lines%SUFFIX%;"
    " CREATE FUNCTION twice%SUFFIX%(n bigint) RETURNS bigint LANGUAGE sql AS 'SELECT n * 2';",
)


@pytest.fixture
def generations(database_url: str) -> Iterator[Generations]:
    made = Generations(database_url)
    yield made
    made.close()


@pytest.fixture
def role(database_url: str, database_prefix: str) -> Iterator[str]:
    """A role whose name needs quotes."""
    name = f'{database_prefix} "Rölle"'
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("DROP OWNED BY {0} CASCADE").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {0}").format(sql.Identifier(name)))


def warned(generations: Generations, *tables: str) -> tuple[str, ...]:
    """Return what an operator is told before the migration."""
    step = plan(generations.version, generations.version + 1, tables, tables)
    return dependents.check(generations.connection, VIEW_SCHEMA, step, generations.live)


def whole_dump(generations: Generations) -> list[str]:
    """Return the whole schema, without what retired tables have."""
    lines = dump(generations.url, VIEW_SCHEMA, "*").splitlines()
    return sorted(lines)


REPORTED = [
    ("ALTER TABLE {schema}.lines ADD extra int", "column extra of lines"),
    ("ALTER TABLE {schema}.lines ADD made int GENERATED ALWAYS AS (n + 1) STORED", "column made of lines"),
    ("ALTER TABLE {schema}.lines ALTER n SET NOT NULL", "column n of lines"),
    ("ALTER TABLE {schema}.lines ALTER name SET DEFAULT 'x'", "column name of lines"),
    ("ALTER TABLE {schema}.lines ADD CONSTRAINT positive CHECK (id > 0) NOT VALID", "constraint positive of lines (CHECK ((id > 0)) NOT VALID)"),
    ("ALTER TABLE {schema}.lines ADD CONSTRAINT once UNIQUE (n) DEFERRABLE INITIALLY DEFERRED", "constraint once of lines (UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)"),
    ("ALTER TABLE {schema}.lines ADD CONSTRAINT apart EXCLUDE USING gist (r WITH &&)", "constraint apart of lines (EXCLUDE (r))"),
    ("ALTER TABLE {schema}.lines ADD CONSTRAINT points FOREIGN KEY (n) REFERENCES others DEFERRABLE", "constraint points of lines"),
    ("ALTER TABLE {schema}.lines DISABLE TRIGGER ALL", "disabled foreign key points of lines"),
    ("CREATE INDEX lines_extra ON {schema}.lines (n)", "index lines_extra of lines"),
    ("CREATE INDEX lines_bad ON {schema}.lines (n)", "index lines_bad of lines ((n) INVALID)"),
    ("ALTER INDEX {schema}.lines_name SET TABLESPACE {tablespace}", "tablespace lines_name of lines"),
    ("ALTER TABLE {schema}.lines SET TABLESPACE {tablespace}", "tablespace lines of lines"),
    ("ALTER TABLE {schema}.lines SET ACCESS METHOD {method}", "access method of lines"),
    ("ALTER SEQUENCE {schema}.lines_id_seq MINVALUE -5 MAXVALUE 99 START 3", "sequence limits lines_id_seq of lines"),
    ("INSERT INTO pg_seclabel SELECT '{schema}.lines'::regclass, 'pg_class'::regclass, 0, 'selinux', 'secret'", "security label table lines selinux of lines"),
    ("ALTER EXTENSION plpgsql ADD TABLE {schema}.lines", "extension plpgsql of lines"),
    ("ALTER TABLE {schema}.lines DROP CONSTRAINT small", "constraint small of lines was dropped by hand and comes back"),
    ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{schema}.lines_bad'::regclass", "index lines_bad of lines"),
    ("ALTER TABLE {schema}.u SET UNLOGGED", "persistence of u"),
    ("DROP INDEX {schema}.u_name", "index u_name of u was dropped by hand and comes back"),
    ("ALTER TABLE {schema}.u DROP gone", "column gone of u was dropped by hand and comes back"),
    ("ALTER TABLE {schema}.u ALTER gone_too TYPE bigint", "column gone_too of u"),
]  # fmt: skip
OTHER = files(
    "u",
    "CREATE TABLE u%SUFFIX% (id int PRIMARY KEY, name text NOT NULL, gone int, gone_too int);",
    "CREATE INDEX u_name%SUFFIX% ON u%SUFFIX% (name);",
)


def test_what_cannot_follow_is_named_before_the_migration_and_after_the_swap(
    generations: Generations, database_prefix: str
) -> None:
    names = {"tablespace": f"{database_prefix}_space", "method": f"{database_prefix}_heap"}
    generations.migrate(LINES, OTHER)
    generations.execute("CREATE TABLE others (id int PRIMARY KEY)")
    generations.execute("CREATE ACCESS METHOD {method} TYPE TABLE HANDLER heap_tableam_handler", **names)
    generations.execute("SET allow_in_place_tablespaces = on")
    generations.execute("CREATE TABLESPACE {tablespace} LOCATION ''", **names)
    assert warned(generations, "lines", "u") == ()
    try:
        for statement, _ in REPORTED:
            generations.execute(statement, **names)
        before = warned(generations, "lines", "u")
        for _, expected in REPORTED:
            assert [expected in warning for warning in before].count(True) == 1, (expected, before)
        # Since PostgreSQL 18 a NOT NULL is a constraint, too.
        others = [warning for warning in before if not any(expected in warning for _, expected in REPORTED)]
        assert [warning for warning in others if "constraint lines_n_not_null" not in warning] == []
        generations.execute("ALTER EXTENSION plpgsql DROP TABLE {schema}.lines")
        after = generations.migrate(LINES, OTHER).warnings
        for _, expected in REPORTED:
            if "extension" not in expected:
                assert any(expected in warning for warning in after), (expected, after)
        assert warned(generations, "lines", "u") == ()
    finally:
        generations.close()
        with psycopg.connect(generations.url, autocommit=True) as connection:
            for table in ("lines", *generations.retired):
                connection.execute(
                    sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(VIEW_SCHEMA, table))
                )
            connection.execute(sql.SQL("DROP TABLESPACE {}").format(sql.Identifier(names["tablespace"])))


def test_views_functions_types_and_sequences_of_the_files_keep_what_was_done_to_them(
    generations: Generations, role: str
) -> None:
    generations.migrate(STANDING)
    plain = {name: generations.dump(name) for name in ("names", "copy", "numbers")}
    for statement in (
        "GRANT SELECT ON {schema}.names TO {role} WITH GRANT OPTION",
        "GRANT UPDATE (name) ON {schema}.names TO PUBLIC",
        "ALTER VIEW {schema}.names SET (security_barrier = on)",
        "COMMENT ON VIEW {schema}.names IS 'mine'",
        "COMMENT ON COLUMN {schema}.names.name IS 'too'",
        "CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER instead INSTEAD OF INSERT ON {schema}.names FOR EACH ROW EXECUTE FUNCTION instead()",
        "CREATE RULE keep AS ON DELETE TO {schema}.names DO INSTEAD NOTHING",
        "ALTER MATERIALIZED VIEW {schema}.copy SET (fillfactor = 50)",
        "COMMENT ON MATERIALIZED VIEW {schema}.copy IS 'a copy'",
        "GRANT SELECT ON {schema}.copy TO {role}",
        "ALTER TABLE {schema}.copy OWNER TO {role}",
        "GRANT USAGE ON SEQUENCE {schema}.numbers TO PUBLIC",
        "ALTER SEQUENCE {schema}.numbers INCREMENT BY 5",
        "COMMENT ON SEQUENCE {schema}.numbers IS 'numbers'",
        "REVOKE EXECUTE ON FUNCTION {schema}.twice FROM PUBLIC",
        "GRANT EXECUTE ON FUNCTION {schema}.twice TO {role}",
        "COMMENT ON FUNCTION {schema}.twice IS 'doubles'",
        "ALTER FUNCTION {schema}.twice OWNER TO {role}",
        "GRANT USAGE ON TYPE {schema}.mood TO {role} WITH GRANT OPTION",
        "REVOKE USAGE ON TYPE {schema}.cents FROM PUBLIC",
        "COMMENT ON TYPE {schema}.mood IS 'moods'",
        "COMMENT ON DOMAIN {schema}.cents IS 'money'",
        "COMMENT ON TYPE {schema}.pair IS 'two'",
        "ALTER TYPE {schema}.pair OWNER TO {role}",
    ):
        generations.execute(statement, role=role)
    others = """
        SELECT p.proname, p.proacl::text, p.proowner::regrole::text, obj_description(p.oid, 'pg_proc') FROM pg_proc p
        WHERE p.proname = 'twice'
        UNION ALL
        SELECT t.typname, t.typacl::text, t.typowner::regrole::text, obj_description(t.oid, 'pg_type') FROM pg_type t
        WHERE t.typname IN ('mood', 'cents', 'pair') ORDER BY 1
    """
    before = {name: sorted(generations.dump(name).splitlines()) for name in plain}
    assert all(before[name] != sorted(plain[name].splitlines()) for name in plain)
    functions_and_types = generations.execute(others)
    for _ in range(2):
        assert warned(generations, "lines") == ()
        assert generations.migrate(STANDING).warnings == ()
        assert {name: sorted(generations.dump(name).splitlines()) for name in plain} == before
        assert [{*str(row[1]).strip("{}").split(",")} for row in generations.execute(others)] == [
            {*str(row[1]).strip("{}").split(",")} for row in functions_and_types
        ]
        assert [(row[0], *row[2:]) for row in generations.execute(others)] == [
            (row[0], *row[2:]) for row in functions_and_types
        ]


def test_default_privileges_are_not_taken_for_something_done_by_hand(
    generations: Generations, role: str
) -> None:
    generations.execute("CREATE SCHEMA {schema}")
    generations.execute(
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT ON TABLES TO {role}", role=role
    )
    generations.migrate(LINES)
    generations.execute("REVOKE INSERT ON {schema}.lines FROM {role}", role=role)
    granted = "SELECT privilege_type FROM information_schema.role_table_grants WHERE table_name = 'lines' AND grantee LIKE '%Rölle%'"
    assert generations.execute(granted) == [("SELECT",)]
    generations.migrate(LINES)
    assert generations.execute(granted) == [("SELECT",)]
    # What the defaults no longer give goes; what was taken away by hand is not given back.
    generations.execute(
        "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE SELECT ON TABLES FROM {role}", role=role
    )
    generations.migrate(LINES)
    assert generations.execute(granted) == []


def test_a_sequence_goes_on_after_the_new_tables_own_rows(generations: Generations) -> None:
    generations.migrate(LINES)
    generations.execute("SELECT setval('{schema}.lines_id_seq', 1000)")
    shadows = generations.build(LINES)
    generations.execute("INSERT INTO {schema}.lines_2 (name) VALUES ('x')")
    generations.swap(shadows)
    assert generations.execute("INSERT INTO {schema}.lines (name) VALUES ('y') RETURNING id") == [(2,)]
    assert generations.execute(
        "SELECT deptype FROM pg_depend WHERE objid = '{schema}.lines_id_seq'::regclass AND refobjsubid = 1"
    ) == [("a",)]


def test_subscribers_are_thought_of_before_the_migration(generations: Generations) -> None:
    generations.migrate(LINES, OTHER)
    generations.execute("CREATE PUBLICATION named FOR TABLE {schema}.lines")
    generations.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    generations.execute("CREATE PUBLICATION schemas FOR TABLES IN SCHEMA {schema}")
    generations.execute("CREATE PUBLICATION other FOR TABLES IN SCHEMA public")
    warnings = warned(generations, "lines")
    assert len(warnings) == 3
    assert "publication named keep their rows of lines" in warnings[0]
    assert "publication everything publishes whatever is created" in warnings[1]
    assert "publication schemas publishes whatever is created" in warnings[2]
    published = "SELECT pubname FROM pg_publication_tables WHERE tablename = {table} ORDER BY 1".replace(
        "{table}", "'lines'"
    )
    before = generations.execute(published)
    generations.migrate(LINES)
    assert generations.execute(published) == before
    assert [name for (name,) in before] == ["everything", "named", "schemas"]


def test_inheritance_is_refused_in_both_directions(generations: Generations) -> None:
    generations.migrate(LINES)
    generations.execute("CREATE TABLE parent (n int)")
    generations.execute("ALTER TABLE {schema}.lines INHERIT parent")
    with pytest.raises(DependentObjects, match="parent table parent on lines"):
        warned(generations, "lines")
    generations.execute("ALTER TABLE {schema}.lines NO INHERIT parent")
    generations.execute("CREATE TABLE child () INHERITS ({schema}.lines)")
    with pytest.raises(DependentObjects, match=r"child table public\.child on lines"):
        warned(generations, "lines")


def test_a_partition_with_other_bounds_is_named(generations: Generations) -> None:
    table = TableFiles(
        "lines",
        "CREATE TABLE lines%SUFFIX% (id int PRIMARY KEY, name text NOT NULL) PARTITION BY RANGE (id);"
        " CREATE TABLE lines_p%SUFFIX% PARTITION OF lines%SUFFIX% FOR VALUES FROM (0) TO (10);",
        None,
    )
    generations.migrate(table)
    generations.execute("ALTER TABLE {schema}.lines DETACH PARTITION {schema}.lines_p")
    generations.execute(
        "ALTER TABLE {schema}.lines ATTACH PARTITION {schema}.lines_p FOR VALUES FROM (0) TO (20)"
    )
    (warning,) = warned(generations, "lines")
    assert "partition bound of lines_p (FOR VALUES FROM (0) TO (20))" in warning
    generations.execute("DROP TABLE {schema}.lines_p")
    (warning,) = warned(generations, "lines")
    assert "lines_p of lines was dropped by hand and comes back" in warning


def test_marks_of_an_index_made_by_hand_are_named(generations: Generations) -> None:
    generations.migrate(LINES)
    generations.execute("CREATE UNIQUE INDEX by_hand ON {schema}.lines (name)")
    generations.execute("ALTER TABLE {schema}.lines CLUSTER ON by_hand")
    generations.execute("ALTER TABLE {schema}.lines REPLICA IDENTITY USING INDEX by_hand")
    generations.execute("COMMENT ON INDEX {schema}.by_hand IS 'mine'")
    (before,) = warned(generations, "lines")
    assert "index by_hand of lines" in before
    after = generations.migrate(LINES).warnings
    assert [warning.partition(" is not carried over")[0] for warning in after] == [
        "The clustering of lines", "The index by_hand of lines (UNIQUE (name)) was made by hand and", "The replica identity of lines",
        "The comment index by_hand of lines",
    ]  # fmt: skip


HOSTILE_NEIGHBOURS = [
    "order_records_2x", "order_records_12", "order_recordsx2", "xorder_records_2", "Order_Records_2", "ORDER_RECORDS", "order_records_02",
    "order_records__2", "order%records_2", 'order_records_2"', "order_records_2'", "order_records_2\\", "order_records_2 ", "order_records_²",
    "order_récords_2", "select", "user", "table", "$1", "%s", "{}", "sequent_parked_1", "n" * 63, "order_records_" + "2" * 49, "é" * 31,
]  # fmt: skip
ORDERS = TableFiles(
    "order_records",
    "CREATE TABLE order_records%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE CHECK (name <> ''));",
    "CREATE INDEX order_records_name%SUFFIX% ON order_records%SUFFIX% (lower(name)); CREATE INDEX ON order_records%SUFFIX% (name, id);",
)


def test_neighbours_are_left_alone_whatever_they_are_called(generations: Generations) -> None:
    """Tables, views, indexes, sequences and functions in the view schema and elsewhere, through three generations and a drop."""
    generations.execute("CREATE SCHEMA {schema}")
    others = ("public", "other schema", 'view "schema"_2')
    for schema in others[1:]:
        generations.execute("CREATE SCHEMA {other}", other=schema)
    for number, name in enumerate(HOSTILE_NEIGHBOURS):
        kind = (
            "CREATE TABLE {schema}.{name} (id serial PRIMARY KEY, note text UNIQUE)",
            "CREATE VIEW {schema}.{name} AS SELECT 1 AS order_records",
            "CREATE SEQUENCE {schema}.{name}",
            "CREATE MATERIALIZED VIEW {schema}.{name} AS SELECT 1 AS x",
        )[number % 4]
        generations.execute(kind, name=name)
    for other in others:
        # The very names of ours, elsewhere.
        for name in ("order_records", "order_records_1", "order_records_2", "order_records_3"):
            generations.execute(
                "CREATE TABLE {other}.{name} (id serial PRIMARY KEY, name text UNIQUE)",
                other=other,
                name=name,
            )
            generations.execute(
                "CREATE INDEX {index} ON {other}.{name} (name)", other=other, name=name, index=f"{name}_name"
            )
            generations.execute("INSERT INTO {other}.{name} (name) VALUES ('theirs')", other=other, name=name)
    neighbours = """
        SELECT n.nspname, c.oid, c.relname, c.relkind, c.relfilenode, c.xmin::text, (SELECT array_agg(k.conname::text || k.xmin::text
            ORDER BY k.conname) FROM pg_constraint k WHERE k.conrelid = c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND c.oid = ANY (%s) ORDER BY 2
    """
    oids = [oid for (oid,) in generations.execute("SELECT oid FROM pg_class WHERE oid >= 16384")]
    before = generations.connection.execute(neighbours, (oids,)).fetchall()
    assert len(before) > 80
    for _ in range(3):
        assert generations.migrate(ORDERS).warnings == ()
        assert generations.connection.execute(neighbours, (oids,)).fetchall() == before
    executor.drop_blueprints(generations.connection, VIEW_SCHEMA, generations.retired.values())
    assert generations.connection.execute(neighbours, (oids,)).fetchall() == before
    for other in others:
        assert generations.execute("SELECT name FROM {other}.order_records_2", other=other) == [("theirs",)]
    # Dropped is what the last swap retired, and nothing else.
    ours = {name for kind, name in objects(generations.connection, VIEW_SCHEMA) if kind == "r"} & {
        "order_records", "order_records_1", "order_records_2", "order_records_3"
    }  # fmt: skip
    assert ours == {"order_records", "order_records_1"}
