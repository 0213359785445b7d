"""Managed tables with partitions: built, swapped, retired and dropped as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from table_generations import VIEW_SCHEMA, Generations, create_fresh, dump, files, objects, plan, shape

from sequent_py.errors import DefinitionError, DependentObjects, TableFileError
from sequent_py.testing.server import fresh_database
from sequent_py.view_schema.ddl import executor
from sequent_py.view_schema.ddl.executor import AlterScript
from sequent_py.view_schema.ddl.table_files import TableFiles
from sequent_py.view_schema.tables import dependents

LONG = "a_rather_long_table_name_that_has_exactly_55_characters"

TABLES: dict[str, tuple[TableFiles, ...]] = {
    "hash": (
        files(
            "orders",
            "CREATE TABLE orders%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL CHECK (name <> ''), n int DEFAULT 7, lower text"
            "   GENERATED ALWAYS AS (lower(name)) STORED) PARTITION BY HASH (id);"
            " CREATE TABLE orders%SUFFIX%_p0 PARTITION OF orders%SUFFIX% FOR VALUES WITH (MODULUS 3, REMAINDER 0) WITH (fillfactor = 70);"
            " CREATE TABLE orders_p1%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES WITH (MODULUS 3, REMAINDER 1);"
            " CREATE TABLE orders_last%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES WITH (MODULUS 3, REMAINDER 2);",
        ),
    ),
    "range, indexes after the load": (
        files(
            "orders",
            "CREATE TABLE orders%SUFFIX% (id int NOT NULL, name text NOT NULL, day date) PARTITION BY RANGE (id);"
            " CREATE TABLE orders_low%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES FROM (MINVALUE) TO (1000);"
            " CREATE TABLE orders_high%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES FROM (1000) TO (MAXVALUE);"
            " CREATE TABLE a_rest%SUFFIX% PARTITION OF orders%SUFFIX% DEFAULT;",
            "ALTER TABLE orders%SUFFIX% ADD PRIMARY KEY (id); CREATE INDEX ON orders%SUFFIX% (name);"
            " CREATE INDEX named%SUFFIX% ON orders%SUFFIX% (name, day); CREATE INDEX ON orders_low%SUFFIX% (day);"
            " ALTER TABLE orders%SUFFIX% ADD CONSTRAINT named_key%SUFFIX% UNIQUE (name, id);"
            " ALTER TABLE orders%SUFFIX% ADD CHECK (id > 0); ALTER TABLE orders_low%SUFFIX% ADD CHECK (id <> 999);"
            " COMMENT ON TABLE orders_low%SUFFIX% IS 'one part'; COMMENT ON INDEX orders_low%SUFFIX%_name_idx IS 'its index';",
        ),
    ),
    "list of hashes": (
        files(
            "orders",
            "CREATE TABLE orders%SUFFIX% (id int PRIMARY KEY, name text NOT NULL) PARTITION BY LIST (id);"
            " CREATE TABLE orders_a%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES IN (1, 2, 3) PARTITION BY HASH (id);"
            " CREATE TABLE orders_a0%SUFFIX% PARTITION OF orders_a%SUFFIX% FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            " CREATE TABLE orders_a1%SUFFIX% PARTITION OF orders_a%SUFFIX% FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
            " CREATE TABLE orders_b%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES IN (5, 4);",
            "CREATE INDEX ON orders%SUFFIX% (id, name);",
        ),
    ),
    "triggers, policies, statistics": (
        files(
            "orders",
            "CREATE TABLE orders%SUFFIX% (id int PRIMARY KEY, name text NOT NULL) PARTITION BY HASH (id);"
            " CREATE TABLE orders_p0%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
            " CREATE FUNCTION orders_stamp%SUFFIX%() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
            " CREATE TRIGGER stamp BEFORE INSERT ON orders%SUFFIX% FOR EACH ROW EXECUTE FUNCTION orders_stamp%SUFFIX%();"
            " CREATE TRIGGER stamp_after%SUFFIX% AFTER INSERT ON orders%SUFFIX% FOR EACH ROW EXECUTE FUNCTION orders_stamp%SUFFIX%();"
            " CREATE TRIGGER own BEFORE UPDATE ON orders_p0%SUFFIX% FOR EACH ROW EXECUTE FUNCTION orders_stamp%SUFFIX%();"
            " ALTER TABLE orders%SUFFIX% ENABLE ROW LEVEL SECURITY; CREATE POLICY visible ON orders%SUFFIX% USING (id > 0);"
            " CREATE STATISTICS orders_stats%SUFFIX% ON id, name FROM orders%SUFFIX%;"
            " ALTER TABLE orders%SUFFIX% ALTER name SET STATISTICS 50, ALTER name SET STORAGE EXTERNAL;"
            " ALTER TABLE orders_p0%SUFFIX% REPLICA IDENTITY FULL;",
        ),
    ),
    "foreign keys": (
        files(
            "orders",
            "CREATE TABLE orders%SUFFIX% (id int PRIMARY KEY, name text NOT NULL, parent int REFERENCES orders%SUFFIX%) PARTITION BY HASH (id);"
            " CREATE TABLE orders_p0%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            " CREATE TABLE orders_p1%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
        ),
        files(
            "lines",
            "CREATE TABLE lines%SUFFIX% (id int PRIMARY KEY, name text NOT NULL, o int REFERENCES orders%SUFFIX%) PARTITION BY HASH (id);"
            " CREATE TABLE lines_p0%SUFFIX% PARTITION OF lines%SUFFIX% FOR VALUES WITH (MODULUS 1, REMAINDER 0);",
        ),
    ),
    "names at the limit": (
        files(
            LONG,
            f"CREATE TABLE {LONG}%SUFFIX% (id bigserial PRIMARY KEY, name text NOT NULL, a_column_with_a_name int, CHECK (a_column_with_a_name > 0))"
            f" PARTITION BY HASH (id); CREATE TABLE {LONG}p0%SUFFIX% PARTITION OF {LONG}%SUFFIX% FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            f" CREATE TABLE {LONG}p1%SUFFIX% PARTITION OF {LONG}%SUFFIX% FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
            f"CREATE INDEX ON {LONG}%SUFFIX% (a_column_with_a_name, name); CREATE INDEX ON {LONG}%SUFFIX% (a_column_with_a_name, id);",
        ),
    ),
}  # fmt: skip


@pytest.fixture
def generations(database_url: str) -> Iterator[Generations]:
    made = Generations(database_url)
    yield made
    made.close()


@pytest.fixture
def fresh_url(server_url: str, database_prefix: str) -> Iterator[str]:
    """Another empty database."""
    with fresh_database(server_url, f"{database_prefix}_fresh") as url:
        yield url


def tables_in(connection: psycopg.Connection) -> list[str]:
    return sorted(name for kind, name in objects(connection, VIEW_SCHEMA) if kind in "rp")


def constraint_names(url: str) -> set[tuple[str, ...]]:
    """Return table and name of all constraints, the copies that partitions have included; those at the other end of a key aside."""
    with psycopg.connect(url) as connection:
        return set(
            connection.execute(
                "SELECT c.relname, k.conname, k.contype FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
                " LEFT JOIN pg_constraint p ON p.oid = k.conparentid WHERE c.relnamespace = %s::regnamespace"
                " AND p.conrelid IS DISTINCT FROM k.conrelid",
                ('"' + VIEW_SCHEMA.replace('"', '""') + '"',),
            ).fetchall()
        )


@pytest.mark.parametrize("name", TABLES)
def test_a_swapped_partitioned_table_dumps_like_a_freshly_created_one(
    generations: Generations, fresh_url: str, name: str
) -> None:
    tables = TABLES[name]
    create_fresh(fresh_url, *tables)
    with psycopg.connect(fresh_url) as connection:
        everything, names = objects(connection, VIEW_SCHEMA), tables_in(connection)
    expected = {table: dump(fresh_url, VIEW_SCHEMA, table) for table in names}
    constraints = constraint_names(fresh_url)

    def check() -> None:
        assert {table: generations.dump(table) for table in names} == expected
        found = objects(generations.connection, VIEW_SCHEMA)
        assert {item for item in everything if item[0] != "constraint f"} <= found
        assert constraints <= constraint_names(generations.url)

    for number in range(1, 4):
        assert generations.migrate(*tables).warnings == ()
        check()
        assert len(tables_in(generations.connection)) == number * len(names)
    # Back and forth.
    for version in (2, 3):
        assert (
            generations.swap(
                {item.table: item for item in generations.retired.values()}, version=version
            ).warnings
            == ()
        )
        check()
    dropped = executor.drop_blueprints(generations.connection, VIEW_SCHEMA, generations.retired.values())
    assert {item.physical_name for item in generations.retired.values()} <= {*dropped}
    check()
    assert len(tables_in(generations.connection)) == 2 * len(names)


def test_attached_partitions_are_swapped_or_refused(generations: Generations) -> None:
    table = files(
        "orders",
        "CREATE TABLE orders%SUFFIX% (id int PRIMARY KEY, name text NOT NULL) PARTITION BY HASH (id);"
        " CREATE TABLE part%SUFFIX% (id int NOT NULL, name text NOT NULL);"
        " ALTER TABLE orders%SUFFIX% ATTACH PARTITION part%SUFFIX% FOR VALUES WITH (MODULUS 1, REMAINDER 0);",
    )
    if generations.connection.info.server_version >= 180000:
        # The partition's NOT NULLs have names of their own since then, which stand in the way of renaming the table's.
        with pytest.raises(TableFileError, match=r"files of orders create cannot be renamed.*PARTITION OF"):
            generations.migrate(table)
    else:
        generations.migrate(table)
        expected = generations.dump("part")
        generations.migrate(table)
        assert generations.dump("part") == expected


def test_rows_reach_their_partitions(generations: Generations) -> None:
    (table,) = TABLES["hash"]
    for _ in range(2):
        shadows = generations.build(table)
        generations.execute(
            "INSERT INTO {schema}.{shadow} (name) SELECT 'x' FROM generate_series(1, 100)",
            shadow=f"orders_{generations.version + 1}",
        )
        generations.swap(shadows)
    assert generations.execute("SELECT count(*) FROM {schema}.orders") == [(100,)]
    assert generations.execute("SELECT count(*) > 10 FROM {schema}.orders_p0") == [(True,)]
    assert generations.execute("SELECT count(*) > 10 FROM {schema}.orders_1_p0") == [(True,)]
    assert generations.execute("INSERT INTO {schema}.orders (name) VALUES ('y') RETURNING id") == [(101,)]
    sizes = (
        generations.execute("SELECT reltuples FROM pg_class WHERE oid = '{schema}.orders_2_p0'::regclass")
        if False
        else []
    )
    assert sizes == []


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE by_hand PARTITION OF {schema}.orders FOR VALUES WITH (MODULUS 3, REMAINDER 0)"],
        [
            "CREATE TABLE by_hand (LIKE {schema}.orders INCLUDING ALL)",
            "ALTER TABLE {schema}.orders ATTACH PARTITION by_hand FOR VALUES WITH (MODULUS 3, REMAINDER 0)",
        ],
    ],
)
def test_a_partition_made_by_hand_is_refused_by_name(generations: Generations, statements: list[str]) -> None:
    (table,) = TABLES["hash"]
    generations.migrate(table)
    generations.execute("DROP TABLE {schema}.orders_p0")
    for statement in statements:
        generations.execute(statement)
    with pytest.raises(DependentObjects, match=r"partition public\.by_hand on orders.*or detach"):
        dependents.check(
            generations.connection, VIEW_SCHEMA, plan(1, 2, ["orders"], ["orders"]), generations.live
        )


def test_what_was_done_by_hand_to_partitions_follows(generations: Generations) -> None:
    (table,) = TABLES["triggers, policies, statistics"]
    generations.migrate(table)
    names = ("orders", "orders_p0")
    plain = [generations.dump(name) for name in names]
    for statement in (
        "COMMENT ON TABLE {schema}.orders_p0 IS 'by hand'",
        "GRANT SELECT ON {schema}.orders_p0 TO PUBLIC",
        "GRANT UPDATE (name) ON {schema}.orders TO PUBLIC",
        "ALTER TABLE ONLY {schema}.orders ALTER id SET STATISTICS 77",
        "ALTER TABLE {schema}.orders_p0 SET (fillfactor = 50)",
        "ALTER TABLE {schema}.orders DISABLE TRIGGER stamp",
        "ALTER TABLE {schema}.orders_p0 ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY part ON {schema}.orders_p0 USING (id > 1)",
        "CREATE TRIGGER again AFTER UPDATE ON {schema}.orders FOR EACH ROW EXECUTE FUNCTION {schema}.orders_stamp()",
        "CREATE PUBLICATION whole FOR TABLE {schema}.orders WITH (publish_via_partition_root)",
    ):
        generations.execute(statement)
    before = [generations.dump(name) for name in names]
    assert all(left != right for left, right in zip(before, plain, strict=True))
    for _ in range(2):
        assert generations.migrate(table).warnings == ()
        assert [generations.dump(name) for name in names] == before


def test_alter_files_change_partitioned_tables_and_add_partitions(generations: Generations) -> None:
    (table,) = TABLES["range, indexes after the load"]
    newer = TableFiles(
        table.table,
        table.create_sql.replace("day date)", "day date, n int)").replace(
            "FROM (1000) TO (MAXVALUE)", "FROM (1000) TO (2000)"
        )
        + "CREATE TABLE orders_huge%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES FROM (2000) TO (MAXVALUE);",
        table.indexes_sql,
    )
    generations.migrate(table)
    text = """
        ALTER TABLE orders ADD n int;
        DROP TABLE orders_high;
        CREATE TABLE orders_high PARTITION OF orders FOR VALUES FROM (1000) TO (2000);
        CREATE TABLE orders_huge PARTITION OF orders FOR VALUES FROM (2000) TO (MAXVALUE);
    """
    script = AlterScript(shape("orders"), 2, text, newer)
    generations.trial(alters=[script])
    generations.swap({}, alters=[script])
    assert "orders_huge" in tables_in(generations.connection)
    step = plan(2, 3, ["orders"], ["orders"])
    assert dependents.check(generations.connection, VIEW_SCHEMA, step, generations.live) == ()
    assert generations.migrate(newer).warnings == ()
    assert {"orders_huge", "orders_huge_2"} <= {*tables_in(generations.connection)}
    executor.drop_blueprints(generations.connection, VIEW_SCHEMA, generations.retired.values())
    assert tables_in(generations.connection) == [
        "a_rest",
        "orders",
        "orders_high",
        "orders_huge",
        "orders_low",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE orders ADD n int;",
        "ALTER TABLE orders ADD n int; CREATE TABLE orders_huge PARTITION OF orders FOR VALUES FROM (3000) TO (MAXVALUE);",
        "ALTER TABLE orders ADD n int; CREATE TABLE orders_huge PARTITION OF orders FOR VALUES FROM (2000) TO (MAXVALUE);",
    ],
)
def test_an_alter_file_that_leads_to_other_partitions_is_a_definition_error(
    generations: Generations, text: str
) -> None:
    (table,) = TABLES["range, indexes after the load"]
    narrower = table.create_sql.replace("FROM (1000) TO (MAXVALUE)", "FROM (1000) TO (2000)")
    generations.migrate(TableFiles(table.table, narrower, table.indexes_sql))
    newer = TableFiles(
        table.table,
        narrower.replace("day date)", "day date, n int)").replace(
            "CREATE TABLE a_rest%SUFFIX% PARTITION OF orders%SUFFIX% DEFAULT;", ""
        )
        + "CREATE TABLE orders_huge%SUFFIX% PARTITION OF orders%SUFFIX% FOR VALUES FROM (2000) TO (MAXVALUE);",
        table.indexes_sql,
    )
    with pytest.raises(DefinitionError, match="partition a_rest") as caught:
        generations.trial(alters=[AlterScript(shape("orders"), 2, text, newer)])
    assert ("partition orders_huge" in str(caught.value)) == ("FROM (2000)" not in text)


def test_a_partition_that_was_dropped_by_hand_comes_back(generations: Generations) -> None:
    (table,) = TABLES["range, indexes after the load"]
    generations.migrate(table)
    expected = generations.dump("orders")
    generations.execute("DROP TABLE {schema}.orders_high")
    generations.migrate(table)
    assert generations.dump("orders") == expected
    assert "orders_high" in tables_in(generations.connection)
    generations.migrate(table)
    assert generations.dump("orders") == expected
