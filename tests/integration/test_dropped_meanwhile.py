"""What others drop while a file of ours runs is not the file's doing; what the file drops is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from shop import Shop1, actual_rows, expected_rows, place_orders, shop
from table_generations import VIEW_SCHEMA, Generations, files

from sequent_py.errors import TableFileError
from sequent_py.view_schema.ddl import index_builds
from sequent_py.view_schema.tables import catalog

LINES = files(
    "lines", "CREATE TABLE lines%SUFFIX% (id int PRIMARY KEY);", "CREATE INDEX ON lines%SUFFIX% (id);"
)


@pytest.fixture
def generations(database_url: str) -> Iterator[Generations]:
    made = Generations(database_url)
    catalog.ensure_schema(made.connection, VIEW_SCHEMA)
    yield made
    made.close()


def test_a_relation_that_somebody_else_drops_during_an_index_build_is_not_held_against_the_file(
    store_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script = index_builds.run_script
    with (
        psycopg.connect(store_database_url, autocommit=True) as other,
        shop(store_database_url, Shop1) as app,
    ):
        place_orders(app, range(5))
        other.execute("CREATE TABLE view_schema.scratch (id int PRIMARY KEY)")
        other.execute("CREATE TABLE view_schema.moved (id int)")

        def run_and_drop(
            connection: psycopg.Connection[Any], text: str, *, source: str, **options: Any
        ) -> None:
            run_script(connection, text, source=source, **options)
            if source.endswith(".indexes.sql"):
                other.execute("DROP TABLE IF EXISTS view_schema.scratch")
                other.execute("ALTER TABLE IF EXISTS view_schema.moved SET SCHEMA public")

        monkeypatch.setattr(index_builds, "run_script", run_and_drop)
        app.view_schema.online()
        app.view_schema.offline()
        assert other.execute("SELECT to_regclass('view_schema.scratch')").fetchone() == (None,)
        assert actual_rows(other) == expected_rows(other)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE {schema}.bystanders",
        "DROP INDEX {schema}.bystanders_index",
        "DROP VIEW {schema}.bystander_view",
        "ALTER TABLE {schema}.bystanders SET SCHEMA public",
        "DO $$ BEGIN EXECUTE 'DROP SEQUENCE {schema}.bystander_numbers'; END $$",
    ],
)
def test_a_file_that_drops_what_it_did_not_create_is_refused(
    generations: Generations, statement: str
) -> None:
    schema = sql.Identifier(VIEW_SCHEMA).as_string()
    generations.execute("CREATE TABLE {schema}.bystanders (id int)")
    generations.execute("CREATE INDEX bystanders_index ON {schema}.bystanders (id)")
    generations.execute("CREATE VIEW {schema}.bystander_view AS SELECT 1 AS one")
    generations.execute("CREATE SEQUENCE {schema}.bystander_numbers")
    dropping = files(
        "lines", LINES.create_sql, f"CREATE INDEX ON lines%SUFFIX% (id); {statement.format(schema=schema)};"
    )
    with pytest.raises(TableFileError, match=r"lines.indexes.sql drops bystander"):
        generations.trial(dropping)


def test_a_drop_that_a_savepoint_undid_and_somebody_else_did_is_the_others(generations: Generations) -> None:
    generations.execute("CREATE TABLE {schema}.bystanders (id int)")
    connection = generations.connection
    with psycopg.connect(generations.url, autocommit=True) as other, connection.transaction():
        before = catalog.take_inventory(connection, VIEW_SCHEMA)
        drop = sql.SQL("DROP TABLE {}").format(sql.Identifier(VIEW_SCHEMA, "bystanders"))
        with connection.transaction(force_rollback=True):
            connection.execute(drop)
        other.execute(drop)
        assert (
            catalog.created_since(
                connection, before, schema=VIEW_SCHEMA, view_schema=VIEW_SCHEMA, source="a file"
            )
            == []
        )
