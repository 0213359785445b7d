"""Tables whose rows cannot be attributed to an aggregate: they are compared whole, or said not to be compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Config, Event, Migrations, Projector, Record, Sequent, on
from sequent_py.cli.blocks import Line
from sequent_py.cli.verify import describe_verification

Connection = psycopg.Connection[Any]


class Posted(Event):
    text: str
    thread: UUID


class PostRecord(Record):
    __tablename__ = "post_records"

    key: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]


class ThreadRecord(Record):
    """Rows carry the id of another aggregate than the one whose event made them."""

    __tablename__ = "thread_records"

    post: Mapped[UUID] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class PostProjector(Projector):
    manages_tables = (PostRecord,)

    @on(Posted)
    def posted(self, event: Posted) -> None:
        key = f"{event.aggregate_id}/{event.sequence_number}"
        self.create_record(PostRecord, key=key, text=event.text)


class ThreadProjector(Projector):
    manages_tables = (ThreadRecord,)

    @on(Posted)
    def posted(self, event: Posted) -> None:
        if event.sequence_number == 1:
            self.create_record(ThreadRecord, post=event.aggregate_id, aggregate_id=event.thread)


class Forum(Migrations):
    version = 1
    versions = {1: [PostProjector, ThreadProjector]}


@pytest.fixture
def app(store_database_url: str, tmp_path: Path) -> Iterator[Sequent]:
    (tmp_path / "post_records.sql").write_text(
        "CREATE TABLE post_records%SUFFIX% (key text PRIMARY KEY, text text NOT NULL)"
    )
    (tmp_path / "thread_records.sql").write_text(
        "CREATE TABLE thread_records%SUFFIX% (post uuid PRIMARY KEY, aggregate_id uuid NOT NULL)"
    )
    config = Config(database_url=store_database_url, workers=0, sql_directory=tmp_path)
    with Sequent(config, migrations=Forum) as app:
        thread = uuid4()
        for _ in range(30):
            post = uuid4()
            app.store.append(post, [Posted(text=f"post {post}", thread=thread)] * 2)
        app.view_schema.online()
        yield app


@pytest.mark.parametrize("is_live", [False, True])
def test_they_are_compared_whole(
    app: Sequent, connection: Connection, is_live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small slices, so that a row's aggregate and the one that it names lie in different ones.
    monkeypatch.setattr("sequent_py.view_schema.comparison.log_comparison.SLICE_EVENTS", 5)
    suffix = "_1"
    if is_live:
        app.view_schema.offline()
        suffix = ""
    report = app.view_schema.verify(is_all=True)
    assert report.is_correct, report
    assert {table.method for table in report.tables} == {"whole"}
    assert report.is_complete
    connection.execute(f"UPDATE view_schema.post_records{suffix} SET text = 'x' WHERE key LIKE '%/2'")  # noqa: S608
    connection.execute(f"DELETE FROM view_schema.thread_records{suffix}")  # noqa: S608
    posts, threads = app.view_schema.verify(is_all=True).tables
    assert (posts.only_in_table, posts.only_in_log, posts.changed) == (0, 0, 30)
    assert (threads.only_in_table, threads.only_in_log, threads.changed) == (0, 30, 0)


def test_a_sample_says_what_it_does_not_compare(app: Sequent) -> None:
    report = app.view_schema.verify(sample=3, tables=["post_records"])
    [table] = report.tables
    assert (table.method, table.rows) == ("not compared", 60)
    assert "--all" in report.notes[0]
    first = next(describe_verification(report))
    assert isinstance(first, Line)
    assert first.text.endswith("what the events say, except 1 table that was not compared (post_records_1).")
    assert not report.is_complete
