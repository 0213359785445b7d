"""Erasing where one table has had several orderings: each relation is treated by the one that it was built with."""

from __future__ import annotations

import pytest
from wallets import (
    CarelessWalletProjector,
    CountProjector,
    WalletProjector,
    WalletsWithoutJournal,
    open_wallets,
    wallets,
)

from sequent_py import Migrations

SHARED = {"statement_records", "wallet_records"}


class Careless1(Migrations):
    version = 1
    versions = {1: [CarelessWalletProjector, CountProjector]}


class FromPartitions2(Migrations):
    """From now on every row depends on its own aggregate."""

    version = 2
    versions = {1: [CarelessWalletProjector, CountProjector], 2: [CarelessWalletProjector]}


class ToPartitions2(Migrations):
    version = 2
    versions = {1: [WalletProjector, CountProjector], 2: [WalletProjector]}


@pytest.mark.parametrize(
    ("before", "after", "untold_before", "untold_after"),
    [
        pytest.param(
            WalletsWithoutJournal, FromPartitions2, SHARED, {f"{name}_1" for name in SHARED}, id="narrower"
        ),
        pytest.param(Careless1, ToPartitions2, {f"{name}_2" for name in SHARED}, SHARED, id="wider"),
    ],
)
def test_tables_are_told_apart_by_the_ordering_that_they_were_built_with(
    store_database_url: str,
    before: type[Migrations],
    after: type[Migrations],
    untold_before: set[str],
    untold_after: set[str],
) -> None:
    """While the new tables are built, and once they serve and the old ones are retired."""
    with wallets(store_database_url, before) as app:
        # One wallet per owner: then either ordering is right.
        erased = list(open_wallets(app, ["ann", "bob", "eve"], each=1))
        app.view_schema.online()
        app.view_schema.offline()
    with wallets(store_database_url, after) as app:
        app.view_schema.online()
        report = app.aggregates.erase(erased[:1])
        assert (set(report.untold_tables), report.is_everywhere) == (untold_before, False)
        # An erasure is an edit, which rows that depend on several aggregates do not take.
        app.view_schema.abort()
        app.view_schema.online()
        app.view_schema.offline()
        report = app.aggregates.erase(erased[1:2])
        assert (set(report.untold_tables), report.is_everywhere) == (untold_after, False)


def test_nothing_is_untold_once_the_shared_rows_are_gone(store_database_url: str) -> None:
    with wallets(store_database_url, WalletsWithoutJournal) as app:
        erased = list(open_wallets(app, ["ann", "bob"], each=1))
        app.view_schema.online()
        app.view_schema.offline()
    with wallets(store_database_url, FromPartitions2, retired_versions_to_keep=0) as app:
        app.view_schema.online()
        app.view_schema.offline()
        app.view_schema.prune()
        report = app.aggregates.erase(erased[:1])
        assert (report.untold_tables, report.is_everywhere) == ((), True)
