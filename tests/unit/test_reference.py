"""The reference page: it names what there is."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from sequent_py.config import Config
from sequent_py.event_store.store import EventStore
from sequent_py.projectors import Projector

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")


def methods_of(cls: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", list(Config.model_fields))
def test_every_setting_is_described(name: str) -> None:
    assert f"\n| `{name}` |" in PAGE or name == "project_directory"


@pytest.mark.parametrize(
    ("name", "default"),
    [
        (name, field.default)
        for name, field in Config.model_fields.items()
        if isinstance(field.default, str | int | float)
    ],
)
def test_a_setting_has_the_default_that_the_page_says(name: str, default: object) -> None:
    written = f'`"{default}"`' if isinstance(default, str) else str(default)
    assert f"\n| `{name}` | {written} |" in PAGE


@pytest.mark.parametrize("name", methods_of(Projector))
def test_every_method_for_handlers_is_described(name: str) -> None:
    assert f"\n| `{name}(R" in PAGE or f"\n| `with {name}(R" in PAGE


@pytest.mark.parametrize("name", methods_of(EventStore))
def test_every_method_of_the_store_is_described(name: str) -> None:
    assert f"\n| `{name}(" in PAGE or f"\nstore.{name}(" in PAGE


def test_every_argument_of_append_is_described() -> None:
    described = PAGE.partition("store.append(")[2].partition(")\n")[0]
    arguments = ", ".join(
        name if parameter.default is parameter.empty else f"{name}={parameter.default}"
        for name, parameter in inspect.signature(EventStore.append).parameters.items()
        if name != "self"
    )
    assert described.replace("*, ", "") == arguments
