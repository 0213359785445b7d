"""What is the replay persistor's alone: batches, row deltas, reading ahead, and staying within memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pytest
from foresight import Foresight
from persistor_kinds import LedgerRecord, PlaceRecord, Tables, WideRecord, create_tables
from psycopg import errors, sql

from sequent_py.persistors import DuplicateRecord, relations
from sequent_py.persistors.ahead import MOST_STRAYS, AccessPaths
from sequent_py.persistors.completeness import AggregateFilter
from sequent_py.persistors.indexes import Bucket
from sequent_py.persistors.relations import Relation
from sequent_py.persistors.replay import ReplayPersistor, RowDelta

AGGREGATES = [UUID(int=number << 64) for number in range(1, 400)]
A, B, C = AGGREGATES[:3]


class Statements:
    """Counts what a connection executes, and rows that are read by COPY."""

    copies: ClassVar[list[str]] = []

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.texts: list[str] = []
        texts = self.texts
        self.copies.clear()

        class Counting(psycopg.Cursor[Any]):
            def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
                texts.append(str(query))
                return super().execute(query, params, **options)

        connection.cursor_factory = Counting

    def take(self) -> int:
        """Return how many statements there were since the last call."""
        count = len(self.texts) + len(self.copies)
        self.texts.clear()
        self.copies.clear()
        return count


@pytest.fixture(autouse=True)
def counted_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    load = relations.load_rows

    def counted(connection: Any, table: Any, query: bytes, parameters: Any) -> Any:
        Statements.copies.append(query.decode())
        return load(connection, table, query, parameters)

    monkeypatch.setattr(relations, "load_rows", counted)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url) as connection:
        yield connection


@pytest.fixture
def tables(connection: psycopg.Connection[Any]) -> Tables:
    return create_tables(connection, "views")


def stored(connection: psycopg.Connection[Any], columns: str = "id, balance") -> list[tuple[Any, ...]]:
    names = sql.SQL(columns)
    return connection.execute(
        sql.SQL("SELECT {} FROM views.ledger_records ORDER BY id").format(names)
    ).fetchall()


def test_a_batch_without_backing_starts_from_nothing(
    connection: psycopg.Connection[Any], tables: Tables
) -> None:
    persistor = ReplayPersistor(connection, tables)
    persistor.create_record(LedgerRecord, {"aggregate_id": A})
    first = persistor.flush()

    assert first[LedgerRecord] == RowDelta(1, 0)
    assert first[PlaceRecord] == RowDelta(0, 0)
    assert persistor.find_records(LedgerRecord, {}) == []
    persistor.create_record(LedgerRecord, {"aggregate_id": A})
    assert persistor.flush()[LedgerRecord] == RowDelta(1, 0)
    assert stored(connection) == [(1, 7), (2, 7)]


def test_batches_with_backing_go_on_from_the_table(
    connection: psycopg.Connection[Any], tables: Tables
) -> None:
    persistor = ReplayPersistor(connection, tables, backing="table")
    for aggregate_id in (A, A, B, C):
        persistor.create_record(LedgerRecord, {"aggregate_id": aggregate_id})
    assert persistor.flush()[LedgerRecord] == RowDelta(4, 0)

    with persistor.update_record(LedgerRecord, {"aggregate_id": A}, {}) as row:
        row.balance = 1
    with persistor.update_record(LedgerRecord, {"aggregate_id": C}, {}) as row:
        row.id = 40
    persistor.create_record(LedgerRecord, {"aggregate_id": C, "id": 4, "balance": 4})
    persistor.delete_all_records(LedgerRecord, {"aggregate_id": B})
    persistor.create_record(LedgerRecord, {"aggregate_id": B})
    persistor.delete_record(LedgerRecord, persistor.create_record(LedgerRecord, {"aggregate_id": B}))
    delta = persistor.flush()[LedgerRecord]

    assert stored(connection) == [(1, 1), (2, 7), (4, 4), (5, 7), (40, 7)]
    assert delta.inserted - delta.deleted == 1
    assert persistor.flush()[LedgerRecord] == RowDelta(0, 0)
    assert persistor.rows_in_memory == 0


def test_a_deletion_by_the_server_counts(connection: psycopg.Connection[Any], tables: Tables) -> None:
    persistor = ReplayPersistor(connection, tables, backing="table")
    for number in (1, 2, 3):
        persistor.create_record(PlaceRecord, {"town": "x", "number": number, "rank": number % 2})
    persistor.flush()
    persistor.create_record(PlaceRecord, {"town": "y", "number": 1, "rank": 1})

    assert persistor.delete_all_records(PlaceRecord, {"rank": 1}) == 3
    delta = persistor.flush()[PlaceRecord]
    assert delta.inserted - delta.deleted == -2


def filled(connection: psycopg.Connection[Any], tables: Tables, aggregates: int, each: int) -> None:
    setup = ReplayPersistor(connection, tables)
    setup.create_records(
        LedgerRecord,
        [
            {"aggregate_id": aggregate, "balance": number, "owner": f"{aggregate.int >> 64}"}
            for number in range(each)
            for aggregate in AGGREGATES[:aggregates]
        ],
    )
    setup.flush()


def ahead(
    connection: psycopg.Connection[Any],
    tables: Tables,
    asked: Sequence[Mapping[str, Any]],
    *,
    batch: int | None = None,
    max_rows_in_memory: int = 200_000,
) -> tuple[ReplayPersistor, Foresight]:
    persistor = ReplayPersistor(connection, tables, backing="table", max_rows_in_memory=max_rows_in_memory)
    foresight = Foresight(asked, batch)
    persistor.read_ahead(foresight, AccessPaths())
    return persistor, foresight


class TestReadingAhead:
    def test_a_look_up_that_misses_reads_what_the_coming_events_ask_for(
        self, connection: psycopg.Connection[Any], tables: Tables
    ) -> None:
        filled(connection, tables, 100, 2)
        persistor, foresight = ahead(
            connection, tables, [{"aggregate_id": each} for each in AGGREGATES[:150]]
        )
        statements = Statements(connection)
        for foresight.place, each in enumerate(AGGREGATES[:150]):
            persistor.find_records(LedgerRecord, {"aggregate_id": each, "owner": None})
            with persistor.create_or_update_record(LedgerRecord, {"aggregate_id": each}, {}) as row:
                row.balance += 1
            persistor.update_all_records(LedgerRecord, {"aggregate_id": each}, {"flag": False})
            persistor.last_record(LedgerRecord, {"aggregate_id": each})
            assert persistor.find_record(WideRecord, {"aggregate_id": each}) is None
        # Twice for each of five look-ups, whether the table has an index for it, and a block of ids for the new rows.
        assert statements.take() <= 15
        persistor.flush()
        assert len(stored(connection)) == 250

    @pytest.mark.parametrize("is_indexed", [True, False])
    def test_of_long_histories_only_the_end_is_read(
        self, connection: psycopg.Connection[Any], tables: Tables, is_indexed: bool
    ) -> None:
        filled(connection, tables, 50, 40)
        if is_indexed:
            connection.execute("CREATE INDEX ON views.ledger_records (aggregate_id)")
        persistor, foresight = ahead(connection, tables, [{"aggregate_id": each} for each in AGGREGATES[:50]])
        for foresight.place, each in enumerate(AGGREGATES[:50]):
            for _ in range(2):
                last = persistor.last_record(LedgerRecord, {"aggregate_id": each})
                assert last is not None
                persistor.create_record(LedgerRecord, {"aggregate_id": each, "balance": last.balance + 1})
            assert persistor.get_record(LedgerRecord, {"aggregate_id": each}).balance == 0
        assert persistor.rows_in_memory <= 50 * (2 + 2 + 2)
        persistor.flush()
        last_balances = connection.execute(
            "SELECT DISTINCT max(balance), count(*) FROM views.ledger_records GROUP BY aggregate_id"
        ).fetchall()
        assert last_balances == [(41, 42)]

    def test_what_cannot_be_foreseen_is_read_one_by_one(
        self, connection: psycopg.Connection[Any], tables: Tables
    ) -> None:
        filled(connection, tables, 300, 1)
        persistor, foresight = ahead(
            connection, tables, [{"aggregate_id": each} for each in AGGREGATES[:300]]
        )
        backwards = list(reversed(AGGREGATES[:300]))
        for foresight.place, each in enumerate(backwards):
            assert persistor.get_record(LedgerRecord, {"owner": f"{each.int >> 64}"}).aggregate_id == each

    def test_one_of_two_look_ups_alike_is_foreseen(
        self, connection: psycopg.Connection[Any], tables: Tables
    ) -> None:
        filled(connection, tables, 300, 1)
        persistor, foresight = ahead(
            connection, tables, [{"aggregate_id": each} for each in AGGREGATES[:150]]
        )
        statements = Statements(connection)
        for foresight.place, each in enumerate(AGGREGATES[:150]):
            persistor.get_record(LedgerRecord, {"aggregate_id": each})
            other = AGGREGATES[150 + foresight.place * 7 % 150]
            assert persistor.get_record(LedgerRecord, {"aggregate_id": other}).aggregate_id == other
        assert statements.take() <= 150 + 10

    def test_what_later_events_of_an_aggregate_look_up_is_not_read_in_vain(
        self, connection: psycopg.Connection[Any], tables: Tables, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup = ReplayPersistor(connection, tables)
        setup.create_records(PlaceRecord, [{"town": str(each), "number": 0} for each in AGGREGATES[:100]])
        setup.flush()
        asked = [{"aggregate_id": each, "number": turn} for turn in range(5) for each in AGGREGATES[:100]]
        read: list[int] = []
        select_keys = Relation.select_keys

        def counted(relation: Relation, columns: Any, keys: Any, *others: Any) -> list[Any]:
            read.append(len(keys))
            return select_keys(relation, columns, keys, *others)

        monkeypatch.setattr(Relation, "select_keys", counted)
        persistor, foresight = ahead(connection, tables, asked)
        for foresight.place, event in enumerate(asked):
            place = {"town": str(event["aggregate_id"]), "number": event["number"]}
            before = persistor.get_record(PlaceRecord, place)
            persistor.create_record(PlaceRecord, {**place, "number": before.number + 1})
        # The row that the aggregate's event before has made is in memory; only the table's own had to be read.
        assert sum(read) == 100
        persistor.flush()
        assert connection.execute('SELECT count(*) FROM views."place records"').fetchone() == (600,)

    def test_rows_that_later_events_of_an_aggregate_find_in_the_table_are_read_ahead_once_that_is_known(
        self, connection: psycopg.Connection[Any], tables: Tables
    ) -> None:
        filled(connection, tables, 100, 5)
        asked = [{"aggregate_id": each, "balance": turn} for each in AGGREGATES[:100] for turn in range(5)]
        persistor, foresight = ahead(connection, tables, asked)
        statements = Statements(connection)
        for foresight.place, where in enumerate(asked):
            assert persistor.get_record(LedgerRecord, where).balance == where["balance"]
        assert statements.take() <= MOST_STRAYS + 20

    def test_what_was_read_ahead_for_in_one_batch_is_not_looked_at_again_in_the_next(
        self, connection: psycopg.Connection[Any], tables: Tables
    ) -> None:
        filled(connection, tables, 300, 1)
        new_and_known = [each for pair in zip(AGGREGATES[200:300], AGGREGATES, strict=False) for each in pair]
        asked = [{"aggregate_id": each} for each in [*AGGREGATES[:200], *new_and_known]]
        persistor, foresight = ahead(connection, tables, asked, batch=200)
        for foresight.place, where in enumerate(asked):
            assert persistor.get_record(LedgerRecord, where).balance == 0
        assert foresight.looked_at <= 310

    def test_aggregates_whose_rows_have_left_memory_are_read_ahead_for_again(
        self, connection: psycopg.Connection[Any], tables: Tables
    ) -> None:
        filled(connection, tables, 300, 1)
        asked = [{"aggregate_id": each} for _ in range(3) for each in AGGREGATES[:300]]
        persistor, foresight = ahead(connection, tables, asked, batch=300, max_rows_in_memory=200)
        statements = Statements(connection)
        for foresight.place, where in enumerate(asked):
            assert persistor.get_record(LedgerRecord, where).balance == 0
        # One for each look-up in vain and one for itself would be 600.
        assert statements.take() <= 400

    def test_an_aggregates_few_rows_are_read_for_look_ups_in_it_that_cannot_be_foreseen(
        self, connection: psycopg.Connection[Any], tables: Tables
    ) -> None:
        filled(connection, tables, 300, 3)
        persistor, foresight = ahead(
            connection, tables, [{"aggregate_id": each} for each in AGGREGATES[:300]]
        )
        statements = Statements(connection)
        for foresight.place, each in enumerate(AGGREGATES[:300]):
            where = {"aggregate_id": each, "balance": foresight.place * 7919 % 1009}
            persistor.find_records(LedgerRecord, where)
        assert statements.take() <= 100


def test_the_last_of_many_rows_is_read_once(connection: psycopg.Connection[Any], tables: Tables) -> None:
    filled(connection, tables, 100, 20)
    persistor = ReplayPersistor(connection, tables, backing="table")
    statements = Statements(connection)
    for number in range(500):
        last = persistor.last_record(LedgerRecord, {})
        assert last is not None
        assert last.balance == (19 if number == 0 else number)
        persistor.create_record(LedgerRecord, {"aggregate_id": A, "balance": number + 1})
    assert statements.take() <= 2
    assert persistor.rows_in_memory < 600


def test_a_queue_is_emptied_from_its_end_in_ever_larger_pages(
    connection: psycopg.Connection[Any], tables: Tables
) -> None:
    filled(connection, tables, 100, 20)
    persistor = ReplayPersistor(connection, tables, backing="table")
    statements = Statements(connection)
    for number in range(2000):
        first = persistor.find_record(LedgerRecord, {})
        assert first is not None
        assert first.balance == number // 100
        persistor.delete_record(LedgerRecord, first)
    assert persistor.find_record(LedgerRecord, {}) is None
    assert statements.take() <= 8
    persistor.flush()
    assert stored(connection) == []


def test_a_miss_is_read_once(connection: psycopg.Connection[Any], tables: Tables) -> None:
    persistor = ReplayPersistor(connection, tables, backing="table")
    statements = Statements(connection)
    for _ in range(3):
        assert persistor.find_record(LedgerRecord, {"aggregate_id": A}) is None
        assert persistor.find_record(LedgerRecord, {"id": 5}) is None
        assert persistor.find_records(LedgerRecord, {"owner": ["x", None]}) == []
        assert persistor.find_record(LedgerRecord, {"owner": "x"}) is None
    assert statements.take() == 3


def test_the_first_of_many_does_not_load_them_all(
    connection: psycopg.Connection[Any], tables: Tables
) -> None:
    setup = ReplayPersistor(connection, tables)
    setup.create_records(LedgerRecord, [{"aggregate_id": A, "balance": number} for number in range(2000)])
    setup.flush()
    persistor = ReplayPersistor(connection, tables, backing="table")

    assert persistor.get_record(LedgerRecord, {"aggregate_id": A}).balance == 0
    assert persistor.delete_record(LedgerRecord, persistor.get_record(LedgerRecord, {"id": 1})) == 1
    assert persistor.get_record(LedgerRecord, {"aggregate_id": A}).balance == 1
    last = persistor.last_record(LedgerRecord, {})
    assert last is not None
    assert last.balance == 1999
    assert persistor.rows_in_memory < 600
    persistor.update_all_records(LedgerRecord, {"id": [*range(2, 700)]}, {"aggregate_id": B})
    assert persistor.get_record(LedgerRecord, {"aggregate_id": A}).balance == 699


@pytest.mark.parametrize("backing", ["none", "table"])
def test_memory_stays_within_its_budget_and_rows_are_the_same(
    connection: psycopg.Connection[Any], tables: Tables, backing: Any
) -> None:
    def project(persistor: ReplayPersistor, most: int) -> list[tuple[Any, ...]]:
        peak = 0
        for turn in range(3):
            for number, each in enumerate(AGGREGATES):
                with persistor.create_or_update_record(LedgerRecord, {"aggregate_id": each}, {}) as row:
                    row.balance += number
                    row.tags.append(str(turn))
                if number % 5 == turn:
                    persistor.delete_all_records(LedgerRecord, {"aggregate_id": AGGREGATES[number - 1]})
                if number % 50 == 0:
                    persistor.create_record(PlaceRecord, {"town": str(turn), "number": number})
                peak = max(peak, persistor.rows_in_memory)
        # Over the budget go only the rows that the operation at hand loads.
        assert peak <= most + 2
        persistor.flush()
        rows = stored(connection, "aggregate_id, balance, tags")
        connection.execute('TRUNCATE views.ledger_records, views."place records"')
        return sorted(rows)

    bounded = project(ReplayPersistor(connection, tables, backing=backing, max_rows_in_memory=60), 60)
    assert bounded == project(ReplayPersistor(connection, tables, backing="none"), 10_000)
    assert len(bounded) == 319
    temporary = connection.execute(
        "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"
    )
    assert temporary.fetchall() == []


def test_new_aggregates_cost_no_reads_after_a_spill(
    connection: psycopg.Connection[Any], tables: Tables
) -> None:
    persistor = ReplayPersistor(connection, tables, max_rows_in_memory=100)
    statements = Statements(connection)
    for each in AGGREGATES:
        persistor.create_record(LedgerRecord, {"aggregate_id": each})
        for _ in range(3):
            with persistor.update_record(LedgerRecord, {"aggregate_id": each}, {}) as row:
                row.balance += 1
    assert not [text for text in statements.texts if "FOR NO KEY" in text or "LIMIT" in text]


def test_a_key_that_the_table_has_is_found_when_the_batch_is_written(
    connection: psycopg.Connection[Any], tables: Tables
) -> None:
    setup = ReplayPersistor(connection, tables)
    setup.create_record(PlaceRecord, {"town": "x", "number": 1})
    setup.flush()
    for persistor in (
        ReplayPersistor(connection, tables),
        ReplayPersistor(connection, tables, backing="table"),
    ):
        persistor.create_record(PlaceRecord, {"town": "x", "number": 1})
        with pytest.raises(DuplicateRecord, match=r"\(town, number\)=\(x, 1\)"), connection.transaction():
            persistor.flush()


def test_other_constraints_speak_for_themselves(connection: psycopg.Connection[Any], tables: Tables) -> None:
    connection.execute("ALTER TABLE views.ledger_records ADD UNIQUE (owner), ADD CHECK (balance > 0)")
    persistor = ReplayPersistor(connection, tables)
    persistor.create_records(LedgerRecord, [{"aggregate_id": A, "owner": "x"}] * 2)
    with pytest.raises(errors.UniqueViolation), connection.transaction():
        persistor.flush()
    persistor = ReplayPersistor(connection, tables)
    persistor.create_record(LedgerRecord, {"aggregate_id": A, "balance": 0})
    with pytest.raises(errors.CheckViolation), connection.transaction():
        persistor.flush()


# Parts


def test_a_bucket_knows_both_ends_over_many_changes() -> None:
    bucket, truth = Bucket(5, 3), {5, 3}
    for step in range(2000):
        number = step * 7919 % 1009
        if number in truth:
            bucket.remove(number)
            truth.remove(number)
        else:
            bucket.add(number)
            truth.add(number)
        if truth:
            assert (bucket.first(), bucket.last()) == (min(truth), max(truth))
        if step % 100 == 0:
            assert list(bucket.ordered()) == sorted(truth)


def test_a_queue_is_emptied_from_its_head_without_scanning() -> None:
    bucket = Bucket(0, 1)
    for number in range(2, 30_000):
        bucket.add(number)
    for number in range(29_999):
        assert bucket.first() == number
        bucket.remove(number)
    assert len(bucket.keys) == 1


def test_the_aggregate_filter_forgets_none() -> None:
    seen = AggregateFilter()
    for each in AGGREGATES:
        seen.add(each.int)

    assert all(each.int in seen for each in AGGREGATES)
    assert sum((number << 32) in seen for number in range(1, 10_000)) < 20
