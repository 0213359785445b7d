"""Verification on a server: every kind of tampering is found, and nothing is found where nothing is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_columns import Noticed, odd_application
from psycopg import sql
from shop import (
    LineAdded,
    LineProjector,
    LineRecord,
    OrderPlaced,
    OrderProjector,
    OrderRecord,
    Shop1,
    Shop2,
    ShopFailing,
    live_shop,
    order_id,
    place_orders,
    shop,
)

from sequent_py import Sequent
from sequent_py.cli.blocks import Line
from sequent_py.cli.verify import describe_verification
from sequent_py.errors import ConfigurationError, MigrationError, VerificationFailed
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.persistors.tables import read_table_shape
from sequent_py.records import record_shape
from sequent_py.verification import Verification
from sequent_py.view_schema.comparison.verify import TableVerification, VerifyReport

Connection = psycopg.Connection[Any]


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


def everything(app: Sequent, **options: Any) -> VerifyReport:
    return app.view_schema.verify(is_all=True, is_once=True, **options)


def first_line(report: VerifyReport) -> str:
    first = next(describe_verification(report))
    assert isinstance(first, Line)
    return first.text


def of(report: VerifyReport, table: str) -> TableVerification:
    return next(item for item in report.tables if item.table_name == table)


# How a row can be tampered with: the statement on a table, and what verification counts (only in table, only in log, changed).
TAMPERINGS: dict[str, tuple[str, str, tuple[int, int, int]]] = {
    "a changed number": (
        "order_records",
        "UPDATE {} SET total = total + 1 WHERE aggregate_id = %(id)s",
        (0, 0, 1),
    ),
    "a changed text": (
        "order_records",
        "UPDATE {} SET customer = upper(customer) WHERE aggregate_id = %(id)s",
        (0, 0, 1),
    ),
    "a microsecond": (
        "order_records",
        "UPDATE {} SET updated_at = updated_at + '1us' WHERE aggregate_id = %(id)s",
        (0, 0, 1),
    ),
    "a lost row": ("order_records", "DELETE FROM {} WHERE aggregate_id = %(id)s", (0, 1, 0)),
    "a lost line": ("line_records", "DELETE FROM {} WHERE aggregate_id = %(id)s AND number = 2", (0, 1, 0)),
    "a line too many": (
        "line_records",
        "INSERT INTO {} SELECT aggregate_id, 99, product, cents FROM {} WHERE aggregate_id = %(id)s AND number = 2",
        (1, 0, 0),
    ),
    "a line renumbered": (
        "line_records",
        "UPDATE {} SET number = 99 WHERE aggregate_id = %(id)s AND number = 2",
        (1, 1, 0),
    ),
    "a row of an aggregate without events": (
        "line_records",
        "INSERT INTO {} VALUES (gen_random_uuid(), 1, 'p', 1)",
        (1, 0, 0),
    ),
    "the rows of two aggregates exchanged": (
        "line_records",
        "UPDATE {} SET aggregate_id = gen_random_uuid() WHERE aggregate_id = %(id)s AND number = 2",
        (1, 1, 0),
    ),
    "everything gone": ("line_records", "TRUNCATE {}", (0, 54, 0)),
}


def tamper(connection: Connection, statement: str, table: str, aggregate_id: UUID) -> None:
    relation = sql.Identifier("view_schema", table)
    connection.execute(sql.SQL(statement).format(*[relation] * statement.count("{}")), {"id": aggregate_id})


class Backup:
    """The rows of both tables, to be put back."""

    def __init__(self, connection: Connection, suffix: str) -> None:
        self._connection = connection
        self._rows = {
            name: connection.execute(
                sql.SQL("SELECT * FROM {}").format(sql.Identifier("view_schema", name))
            ).fetchall()
            for name in (f"order_records{suffix}", f"line_records{suffix}")
        }

    def restore(self) -> None:
        for name, rows in self._rows.items():
            table = sql.Identifier("view_schema", name)
            self._connection.execute(sql.SQL("DELETE FROM {}").format(table))
            places = sql.SQL(", ").join([sql.Placeholder()] * len(rows[0]))
            with self._connection.cursor() as cursor:
                cursor.executemany(sql.SQL("INSERT INTO {} VALUES ({})").format(table, places), rows)


@pytest.mark.parametrize("side", ["live", "shadow"])
def test_each_kind_of_tampering_is_found(app: Sequent, connection: Connection, side: str) -> None:
    ids = place_orders(app, range(20))
    app.view_schema.online()
    if side == "live":
        app.view_schema.offline()
    suffix = "" if side == "live" else "_1"
    backup = Backup(connection, suffix)
    for kind, (table, statement, expected) in TAMPERINGS.items():
        assert everything(app).is_correct, f"before {kind}"
        tamper(connection, statement, table + suffix, ids[3])
        report = everything(app)
        found = of(report, table)
        assert (found.only_in_table, found.only_in_log, found.changed) == expected, kind
        assert not report.is_correct
        assert (report.subject, found.physical_name) == (side, table + suffix)
        assert of(report, "line_records" if table == "order_records" else "order_records").is_correct
        backup.restore()


@pytest.mark.parametrize("side", ["live", "shadow"])
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mixture_of_tamperings_is_found_and_undoing_it_is_seen(
    app: Sequent, connection: Connection, side: str, data: st.DataObject
) -> None:
    if app.view_schema.status().state is None:
        place_orders(app, range(12))
        app.view_schema.online()
        if side == "live":
            app.view_schema.offline()
    suffix = "" if side == "live" else "_1"
    query = f"SELECT aggregate_id FROM view_schema.order_records{suffix}"  # noqa: S608
    ids = [row[0] for row in connection.execute(query)]
    wanted = data.draw(
        st.lists(
            st.tuples(st.sampled_from(sorted(TAMPERINGS)), st.sampled_from(sorted(ids))),
            min_size=1,
            max_size=3,
            unique_by=lambda item: (item[1], TAMPERINGS[item[0]][0]),
        )
    )
    backup = Backup(connection, suffix)
    for kind, aggregate_id in wanted:
        table, statement, _ = TAMPERINGS[kind]
        tamper(connection, statement, table + suffix, aggregate_id)
    assert not everything(app).is_correct
    backup.restore()
    assert everything(app).is_correct


class TestWhatIsSaid:
    @pytest.mark.store(made_by=live_shop(3))
    def test_a_changed_row_is_shown_with_both_values_and_its_aggregate(
        self, app: Sequent, connection: Connection
    ) -> None:
        ids = list(map(order_id, range(3)))
        connection.execute("UPDATE view_schema.order_records SET total = 7 WHERE aggregate_id = %s", [ids[1]])
        [example] = of(everything(app), "order_records").examples_changed
        assert example == f'aggregate_id="{ids[1]}": total: 7 -> 33'
        assert of(everything(app), "order_records").changed_columns == {"total": 1}

    @pytest.mark.store(made_by=live_shop(3))
    def test_a_sample_finds_rows_of_aggregates_that_have_no_events(
        self, app: Sequent, connection: Connection
    ) -> None:
        connection.execute("INSERT INTO view_schema.line_records VALUES (%s, 1, 'p', 1)", [uuid4()])
        report = app.view_schema.verify(sample=1, is_once=True)
        assert of(report, "line_records").only_in_table == 1
        assert not report.is_complete

    @pytest.mark.store(made_by=live_shop(5))
    def test_only_the_aggregates_and_tables_that_were_asked_for_are_compared(
        self, app: Sequent, connection: Connection
    ) -> None:
        ids = list(map(order_id, range(5)))
        connection.execute("UPDATE view_schema.order_records SET total = 7 WHERE aggregate_id = %s", [ids[1]])
        connection.execute("UPDATE view_schema.line_records SET cents = 7 WHERE aggregate_id = %s", [ids[2]])
        assert app.view_schema.verify(aggregate_ids=[ids[0]]).is_correct
        assert not app.view_schema.verify(aggregate_ids=[ids[1]]).is_correct
        assert app.view_schema.verify(aggregate_ids=[ids[1]], tables=["line_records"]).is_correct
        assert [item.table_name for item in everything(app, tables=["line_records"]).tables] == [
            "line_records"
        ]
        with pytest.raises(ConfigurationError, match="order_records, line_records"):
            everything(app, tables=["elsewhere"])

    def test_row_counts_of_shadow_tables_are_compared_with_the_ledger(
        self, app: Sequent, connection: Connection
    ) -> None:
        place_orders(app, range(3))
        app.view_schema.online()
        found = of(app.view_schema.verify(sample=0), "line_records")
        assert (found.rows, found.rows_recorded, found.is_correct) == (9, 9, True)
        connection.execute("DELETE FROM view_schema.line_records_1")
        assert not of(app.view_schema.verify(sample=0), "line_records").is_correct

    @pytest.mark.store(made_by=live_shop(5))
    def test_verifying_draws_no_number_from_live_sequences(
        self, app: Sequent, connection: Connection
    ) -> None:
        query = "SELECT last_value FROM view_schema.order_records_id_seq"
        before = connection.execute(query).fetchone()
        assert everything(app).is_correct
        assert everything(app).is_complete
        assert app.view_schema.verify().is_correct
        assert connection.execute(query).fetchone() == before

    def test_nothing_to_verify_is_said(self, app: Sequent, store_database_url: str) -> None:
        with pytest.raises(MigrationError, match="no managed tables yet"):
            app.view_schema.verify()
        place_orders(app, range(2))
        migrate(app)
        with (
            shop(store_database_url, Shop2) as newer,
            pytest.raises(MigrationError, match="of version 1, this code"),
        ):
            newer.view_schema.verify()


class TestSchema:
    @pytest.mark.store(made_by=live_shop(2))
    def test_what_is_missing_is_a_failure_and_what_was_added_by_hand_is_not(
        self, app: Sequent, connection: Connection
    ) -> None:
        connection.execute("CREATE INDEX by_hand ON view_schema.order_records (total)")
        connection.execute("GRANT SELECT ON view_schema.order_records TO PUBLIC")
        connection.execute("ALTER TABLE view_schema.order_records ADD COLUMN by_hand text DEFAULT 'x'")
        report = everything(app)
        assert report.is_correct
        assert len(of(report, "order_records").made_by_hand) == 2
        connection.execute("ALTER INDEX view_schema.order_records_aggregate RENAME TO elsewhere")
        assert everything(app).is_correct

    @pytest.mark.store(made_by=live_shop(2))
    def test_each_difference_is_named(self, app: Sequent, connection: Connection) -> None:
        changes = {
            "DROP INDEX view_schema.order_records_aggregate": "index order_records_aggregate: missing",
            "ALTER TABLE view_schema.order_records DROP CONSTRAINT order_records_pkey": "order_records_pkey: missing",
            "ALTER TABLE view_schema.order_records ALTER total TYPE numeric": "column total: numeric NOT NULL instead",
            "ALTER TABLE view_schema.order_records ALTER customer DROP NOT NULL": "column customer: text instead",
            "ALTER TABLE view_schema.order_records ALTER id DROP DEFAULT": "column id",
            "ALTER TABLE view_schema.order_records ALTER lines SET DEFAULT 3": "column lines",
        }
        for number, (change, named) in enumerate(changes.items(), 1):
            connection.execute(change)
            report = app.view_schema.verify(sample=0, tables=["order_records"], is_once=True)
            failures = of(report, "order_records").schema_failures
            assert len(failures) == number
            assert any(named in text for text in failures)
            assert not report.is_correct


class TestWhileTheApplicationWrites:
    @pytest.mark.store(made_by=live_shop(40))
    @pytest.mark.parametrize("workers", [0, 2])
    def test_nothing_is_found_on_live_tables(
        self, app: Sequent, store_database_url: str, workers: int
    ) -> None:
        ids = list(map(order_id, range(40)))
        with writing(store_database_url, ids) as written:
            for _ in range(3):
                before = written()
                report = everything(app, workers=workers)
                assert report.is_correct, report
                assert written() > before

    @pytest.mark.store(made_by=live_shop(20))
    def test_nothing_is_found_on_shadow_tables_while_they_catch_up(
        self, app: Sequent, store_database_url: str
    ) -> None:
        ids = list(map(order_id, range(20)))
        failures: list[BaseException] = []
        with shop(store_database_url, Shop2) as newer:
            newer.view_schema.online()
            is_over = threading.Event()

            def catch_up() -> None:
                try:
                    with shop(store_database_url, Shop2) as other:
                        while not is_over.is_set():
                            other.view_schema.online()
                except BaseException as error:
                    failures.append(error)

            thread = threading.Thread(target=catch_up)
            with writing(store_database_url, ids):
                thread.start()
                try:
                    for _ in range(4):
                        report = everything(newer)
                        assert report.subject == "shadow"
                        assert not any(table.differences for table in report.tables), report
                finally:
                    is_over.set()
                    thread.join()
        assert not failures

    def test_a_swap_in_between_is_said_and_not_taken_for_differences(
        self, app: Sequent, store_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sequent_py.checks.checker import SliceChecker

        place_orders(app, range(5))
        migrate(app)
        with shop(store_database_url, Shop2) as newer:
            newer.view_schema.online()
            check = SliceChecker.check

            def promoting(self: SliceChecker, *arguments: Any) -> Any:
                newer.view_schema.offline()
                return check(self, *arguments)

            monkeypatch.setattr(SliceChecker, "check", promoting)
            with pytest.raises(MigrationError, match=r"went live|renamed or dropped"):
                everything(newer)


class writing:
    """Appends to aggregates from a thread of its own; yields how often it has."""

    def __init__(self, database_url: str, ids: list[UUID]) -> None:
        self._url, self._ids = database_url, ids
        self._is_over = threading.Event()
        self._count = 0
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Callable[[], int]:
        self._thread.start()
        return lambda: self._count

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        assert not self._failures

    def _write(self) -> None:
        try:
            with shop(self._url, Shop1) as app:
                number = 0
                while not self._is_over.is_set():
                    number += 1
                    app.store.append(uuid4(), [OrderPlaced(customer=f"new {number}")])
                    # Every seventh of place_orders is cancelled: nothing can be added to those.
                    open_ids = [item for place, item in enumerate(self._ids) if place % 7 != 6]
                    app.store.append(
                        open_ids[number % len(open_ids)], [LineAdded(product="late", cents=number)]
                    )
                    self._count += 1
        except BaseException as error:
            self._failures.append(error)


class TestEveryKindOfColumn:
    @pytest.fixture
    def odd(self, store_database_url: str, tmp_path: Path) -> Iterator[Sequent]:
        with odd_application(store_database_url, tmp_path) as app:
            app.store.append(
                UUID(int=1),
                [
                    Noticed(
                        name="é %s {}",
                        measure=0.1,
                        amount="12.50",
                        document={"b": [1, 2.5, None], "a": True},
                        tags=["x", "Ä"],
                        sizes=[3, 1],
                        content="\x01\x02",
                    ),
                    Noticed(),
                ],
            )
            app.view_schema.online()
            app.view_schema.offline()
            yield app

    def test_equal_rows_are_equal(self, odd: Sequent) -> None:
        report = everything(odd)
        assert report.is_correct, report
        assert odd.view_schema.verify(sample=5).is_correct
        [table] = report.tables
        # Only what the database has really drawn is left out: given_at has a drawn default, and handlers always give a value.
        assert table.uncompared_columns == ("id",)

    def test_each_column_is_compared(self, odd: Sequent, connection: Connection) -> None:
        changes = [
            ('"na%me"', "'É %s {}'"),
            ("measure", "0.1::real"),
            ("measure", "'NaN'"),
            ("amount", "12.51"),
            ("document", """'{"b": [1, 2.5, null], "a": 1}'"""),
            ("note", """'{"b": [1, 2.5, 0], "a": true}'"""),
            ("tags", "'{x,ä}'"),
            ("tags", "NULL"),
            ("sizes", "'{1,3}'"),
            ("content", r"'\x0103'"),
            ("noticed_at", "noticed_at + '1us'"),
            ("given_at", "given_at + '1us'"),
            ("kept_by", "'somebody'"),
        ]
        changed = set()
        for column, value in changes:
            connection.execute(
                f"""UPDATE view_schema."odd % ""records""\" SET {column} = {value} WHERE number = 1"""  # noqa: S608
            )
            changed.add(column.strip('"'))
            [table] = everything(odd).tables
            assert (table.only_in_table, table.only_in_log, table.changed) == (0, 0, 1), table
            assert set(table.changed_columns) == changed

    def test_other_spellings_of_equal_values_are_no_difference(
        self, odd: Sequent, connection: Connection
    ) -> None:
        connection.execute(
            """UPDATE view_schema."odd % ""records""\" SET amount = 12.500, document = '{"a":true,"b":[1,2.50,null]}',"""
            """ note = '{ "a" : true, "b" : [1, 2.5, null] }' WHERE number = 1"""
        )
        assert everything(odd).is_correct


class TestBeforeAPromotion:
    def test_a_shadow_table_whose_schema_was_changed_is_not_promoted(
        self, app: Sequent, connection: Connection
    ) -> None:
        place_orders(app, range(3))
        app.view_schema.online()
        connection.execute("DROP INDEX view_schema.order_records_aggregate_1")
        with pytest.raises(VerificationFailed, match="index order_records_aggregate_1: missing") as caught:
            app.view_schema.offline()
        assert "--accept-differences" in caught.value.remedy
        assert app.view_schema.status().state == "online_done"

    @pytest.mark.parametrize("command", ["offline", "golive"])
    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE view_schema.order_records_1 SET total = 0",
            "DELETE FROM view_schema.line_records_1",
            "ALTER TABLE view_schema.order_records_1 ALTER lines SET DEFAULT 3",
        ],
    )
    def test_accepted_differences_are_promoted_and_recorded(
        self, app: Sequent, connection: Connection, change: str, command: str
    ) -> None:
        promote = getattr(app.view_schema, command)
        place_orders(app, range(3))
        app.view_schema.online()
        connection.execute(change)
        with pytest.raises(VerificationFailed):
            promote()
        assert app.view_schema.status().migration.accepted_differences == ()  # type: ignore[union-attr]
        promote(accept_differences=True)
        migration = app.view_schema.status().migration
        assert migration is not None
        assert migration.state == "live"
        first = migration.accepted_differences[0]
        assert first.differences
        assert first.database_user.endswith("_deploy")
        assert first.host
        assert first.accepted_at.tzinfo is not None

    def test_where_nothing_differs_nothing_is_recorded(self, app: Sequent) -> None:
        place_orders(app, range(3))
        app.view_schema.online()
        app.view_schema.offline(accept_differences=True)
        assert app.view_schema.status().migration.accepted_differences == ()  # type: ignore[union-attr]

    def test_scratch_tables_may_be_prepared_and_serve_several_checks(
        self, app: Sequent, store_database_url: str, connection: Connection
    ) -> None:
        ids = place_orders(app, range(6))
        app.view_schema.online()
        until = str(connection.execute("SELECT pg_current_snapshot()::text").fetchone()[0])  # type: ignore[index]
        verification = Verification(
            event_store_schema="sequent_schema",
            projectors=[OrderProjector, LineProjector],
            tables={
                record: read_table_shape(connection, record_shape(record), "view_schema", f"{table}_1")
                for record, table in ((OrderRecord, "order_records"), (LineRecord, "line_records"))
            },
            event_types=app.event_types,
            stored_types=stored_event_types(connection, "sequent_schema"),
        )
        verification.prepare(connection)
        with psycopg.connect(store_database_url, autocommit=True) as reader:
            for _ in range(2):
                assert verification.check_aggregates(connection, reader, ids, until=until) == 6
            connection.execute("UPDATE view_schema.order_records_1 SET total = -1")
            with pytest.raises(VerificationFailed) as caught:
                verification.check_aggregates(connection, reader, ids, until=until)
        assert len(caught.value.differences) == 5
        assert "total: -1 -> " in str(caught.value)


class TestSpecialAggregates:
    def test_edited_ones_are_left_out_of_shadow_tables_until_the_next_pass_and_found_in_live_ones(
        self, app: Sequent, connection: Connection
    ) -> None:
        ids = place_orders(app, range(5))
        app.view_schema.online()
        edit = "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{cents}', '1') WHERE aggregate_id = %s AND sequence_number = 2"
        connection.execute(edit, [ids[1]])
        report = app.view_schema.verify(is_all=True)
        assert report.is_correct
        assert any(str(ids[1]) in note for note in report.notes)
        app.view_schema.online()
        assert everything(app).notes == ()
        app.view_schema.offline()
        assert everything(app).is_correct
        connection.execute(edit, [ids[2]])
        report = everything(app)
        assert (of(report, "order_records").changed, of(report, "line_records").changed) == (1, 1)

    def test_those_that_a_replay_set_aside_are_left_out_and_named(self, store_database_url: str) -> None:
        with shop(store_database_url, ShopFailing) as app:
            ids = place_orders(app, range(4))
            app.store.append(ids[2], [LineAdded(product="poison", cents=1)])
            app.view_schema.online(quarantine=True)
            for _ in range(2):
                report = app.view_schema.verify(is_all=True)
                assert report.is_correct
                assert any(str(ids[2]) in note for note in report.notes)
                assert (report.is_complete, report.left_out) == (False, (str(ids[2]),))
                what = "left behind" if report.subject == "live" else "left out"
                assert first_line(report).endswith(
                    f"what the events say, except 1 aggregate that was {what}."
                )
                if report.subject == "shadow":
                    app.view_schema.offline(accept_quarantined=[ids[2]])
            assert report.subject == "live"
            report = app.view_schema.verify(aggregate_ids=[ids[2], ids[1]])
            assert (report.aggregates, report.is_complete) == (1, False)
            assert "except 1 aggregate" in first_line(report)
            report = app.view_schema.verify(aggregate_ids=[ids[1]])
            assert (report.aggregates, report.left_out) == (1, ())
            assert first_line(report) == "The live tables of version 1 are what the events say."
