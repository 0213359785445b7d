"""Replaying on a Dask cluster: a real scheduler, worker processes of their own, and what happens when they die."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from shop import actual_rows, expected_rows, place_orders, shop
from waiting import wait_until

pytest.importorskip("distributed", reason="the extra dask is not installed")

from dask_cluster import Cluster, dask_cluster

from sequent_py.contrib import dask
from sequent_py.contrib.dask import DaskCluster, DaskPool, without_password
from sequent_py.errors import ConfigurationError, WorkerFailed
from sequent_py.replay import fence
from sequent_py.replay.limits import Limits
from sequent_py.replay.task import ReplayTask

SCHEMA = "sequent_schema"

pytestmark = pytest.mark.filterwarnings("ignore")


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, name: str) -> None:
        pass

    def replay(self, progress: object) -> None:
        pass

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def quiet_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nobody dies in it."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), workers=1) as cluster:
        wait_for_workers(cluster, 1)
        yield cluster


@pytest.fixture(autouse=True)
def _no_pass_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 0)


@pytest.fixture
def url(store_database_url: str) -> str:
    with shop(store_database_url) as app:
        place_orders(app, range(100))
    return store_database_url


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def wait_for_workers(cluster: Cluster, count: int) -> None:
    def are_there() -> bool:
        with suppress(ConfigurationError):
            return DaskCluster(cluster.address).threads() >= count
        return False

    wait_until(are_there)


def groups_done(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        f"SELECT count(*) FROM {SCHEMA}.replay_groups WHERE done_at IS NOT NULL"  # noqa: S608
    ).fetchone()
    assert row is not None
    return int(row[0])


def took_part(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(f"SELECT count(DISTINCT worker) FROM {SCHEMA}.replay_groups").fetchone()  # noqa: S608
    assert row is not None
    return int(row[0])


def backends_of(connection: psycopg.Connection[Any]) -> int:
    return fence.worker_count(connection, SCHEMA)


def online(url: str, cluster: Cluster, notes: Notes, **options: Any) -> None:
    with shop(url, group_target_events=10) as app:
        app.view_schema.online(pool=DaskCluster(cluster.address), progress=notes, **options)


def finish(url: str, connection: psycopg.Connection[Any]) -> None:
    with shop(url) as app:
        app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def test_a_killed_worker_loses_nothing(url: str, connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    notes = Notes()
    with dask_cluster(tmp_path, workers=2) as cluster, ThreadPoolExecutor(1) as pool:
        wait_for_workers(cluster, 2)
        with shop(url) as operator:
            # Both are there before the first group is begun; slow enough to be met at work.
            operator.view_schema.pause()
            running = pool.submit(online, url, cluster, notes, workers=2, limits=Limits(rate=100))
            wait_until(lambda: backends_of(connection) == 2 or running.done())
            operator.view_schema.resume()
        wait_until(lambda: took_part(connection) == 2 or running.done())
        assert not running.done(), running.exception()
        cluster.kill(cluster.workers[0])
        running.result(120)
    finish(url, connection)


def test_without_a_scheduler_the_command_fails_and_its_work_is_kept(
    url: str, connection: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "CLUSTER_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(dask, "_CLUSTER_LOOK_SECONDS", 0.2)
    with dask_cluster(tmp_path, workers=1) as cluster, ThreadPoolExecutor(1) as pool:
        wait_for_workers(cluster, 1)
        running = pool.submit(online, url, cluster, Notes(), workers=1, limits=Limits(rate=20))
        wait_until(lambda: groups_done(connection) >= 1 or running.done())
        assert not running.done(), running.exception()
        cluster.kill(cluster.scheduler)
        with pytest.raises(WorkerFailed, match="Finished groups are kept"):
            running.result(120)
        done = groups_done(connection)
        # Its process leaves by itself, at its next group, because nobody coordinates any longer.
        wait_until(lambda: backends_of(connection) == 0)
        assert groups_done(connection) <= done + 1
    with shop(url) as app:
        app.view_schema.online()
    finish(url, connection)


def test_other_code_on_a_dask_worker_is_refused_and_named(
    url: str, quiet_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_code(*_: object) -> dict[str, object]:
        return {"library": "another release", "python": "3.11", "tables": {}}

    monkeypatch.setattr("sequent_py.view_schema.building.passes.code_document", other_code)
    with pytest.raises(ConfigurationError, match="sequent_py itself is another version"):
        online(url, quiet_cluster, Notes(), workers=1)


def test_a_failing_handler_is_reported_as_from_a_process_of_this_host(
    url: str, quiet_cluster: Cluster
) -> None:
    from shop import ShopFailing, order_id

    from sequent_py.errors import ProjectionFailed

    with shop(url) as app:
        from shop import LineAdded

        app.store.append(order_id(1), [LineAdded(product="poison", cents=1)])
    with (
        shop(url, ShopFailing) as app,
        pytest.raises(ProjectionFailed, match="no poison here"),
    ):
        app.view_schema.online(pool=DaskCluster(quiet_cluster.address), workers=1)


def test_no_password_travels() -> None:
    url = "postgresql://ann:s3cret@db.example:5433/bank?sslmode=require&sslpassword=k3y"
    task = ReplayTask(
        url,
        SCHEMA,
        "view_schema",
        "shop:Shop1",
        (),
        1,
        1,
        (),
        {},
        100,
        standby_url=url.replace("db.", "db2."),
    )
    pool = DaskPool(DaskCluster("tcp://127.0.0.1:1"), task)
    sent = pool._task.to_json()
    assert "s3cret" not in sent
    assert "k3y" not in sent
    assert json.loads(sent)["is_elsewhere"] is True
    assert without_password(url) == "user=ann dbname=bank host=db.example port=5433 sslmode=require"


def test_an_address_where_nobody_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "CONNECT_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(ConfigurationError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        DaskCluster("tcp://127.0.0.1:1").threads()


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError, match="not installed") as raised:
        DaskCluster("tcp://127.0.0.1:1").threads()
    assert "sequent-py[dask]" in raised.value.remedy


def test_importing_the_command_line_does_not_import_dask() -> None:
    import subprocess
    import sys

    code = "import sys, sequent_py.cli; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
