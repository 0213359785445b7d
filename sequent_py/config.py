"""Configuration: ``[tool.sequent]`` of the nearest ``pyproject.toml``, with ``SEQUENT_*`` over it.

``Config(...)`` in code takes exactly what it is given: neither environment nor files are read. :meth:`Config.load` is the one place
that looks outside. Unknown keys are errors in both sources, with the nearest known key named, because a misspelt setting that is
silently ignored is found only at night.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sequent_py.errors import ConfigurationError
from sequent_py.names import NAME_LIMIT_BYTES

ENVIRONMENT_PREFIX = "SEQUENT_"


class Config(BaseSettings):
    """Every setting, validated. Frozen: a changed configuration is a new value."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    migrations_class: str | None = None
    """``module:Class`` of the application's :class:`~sequent_py.Migrations`."""
    database_url: SecretStr | None = None
    """A libpq URL or key=value string. Absent: an embedded PostgreSQL under ``.sequent/``."""
    standby_url: SecretStr | None = None
    """A standby of the same server, to read the events of a replay from."""
    sql_directory: Path = Path("sql")
    """Where the table files are; relative to ``project_directory``."""
    view_schema: str = "view_schema"
    """The schema with the managed tables."""
    event_store_schema: str = "sequent_schema"
    """The schema with the events and all bookkeeping."""
    project_directory: Path = Field(default_factory=Path.cwd)
    """Where ``pyproject.toml`` was found; put on ``sys.path`` by the application."""

    workers: Annotated[int, Field(ge=0, le=256)] = Field(default_factory=lambda: os.cpu_count() or 1)
    """Replay processes; 0 replays inside the calling process."""
    group_target_events: Annotated[int, Field(ge=1)] = 50_000
    """How many events a replay group aims for: at most half as many again, but for longer aggregates. Bounds a worker's memory and the length of its transaction."""
    max_rows_in_memory: Annotated[int, Field(ge=1)] = 100_000
    """Rows that a worker holds before cold ones spill to a temporary table: more than a usual group makes, and less than a long aggregate's."""
    lock_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """How long one try for the swap's locks may wait; whoever comes later queues behind it for that long. None: what suits each command."""
    lock_budget_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long the swap goes on trying in all."""
    drain_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long ``offline`` waits for writers in flight."""
    verify_sample: Annotated[int, Field(ge=0)] = 100
    """Aggregates whose rows are compared with a fresh fold before promotion."""
    retired_versions_to_keep: Annotated[int, Field(ge=0)] = 1
    """How many generations of retired tables ``prune`` keeps, the newest; each is one step that can be rolled back."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing but the arguments: ``load`` merges the other sources where it can name them in errors."""
        return (init_settings,)

    @field_validator("view_schema", "event_store_schema")
    @classmethod
    def _schema_name(cls, value: str) -> str:
        if not value:
            raise ValueError("must not be empty")
        if len(value.encode()) > NAME_LIMIT_BYTES:
            raise ValueError(
                f"is {len(value.encode())} bytes long; PostgreSQL cuts names at {NAME_LIMIT_BYTES}"
            )
        if "\0" in value or value.startswith("pg_"):
            raise ValueError("is not a name PostgreSQL accepts for a schema")
        return value

    @property
    def sql_path(self) -> Path:
        """The table files' directory, absolute."""
        return (self.project_directory / self.sql_directory).resolve()

    @classmethod
    def load(cls, start: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
        """Read the nearest ``pyproject.toml`` with a ``[tool.sequent]`` table at or above ``start``, then the environment over it.

        Raises
        ------
        ConfigurationError
            A key is unknown or a value is malformed; names the source.
        """
        environment = os.environ if environment is None else environment
        project = _find_project((start or Path.cwd()).resolve())
        values: dict[str, Any] = {"project_directory": (start or Path.cwd()).resolve()}
        sources: dict[str, str] = {}
        if project is not None:
            for key, value in (_read_table(project) or {}).items():
                _check_known(key, f"[tool.sequent] in {project}", key)
                values[key], sources[key] = value, f"[tool.sequent] in {project}"
            values["project_directory"] = project.parent
        for variable, value in environment.items():
            if variable.startswith(ENVIRONMENT_PREFIX):
                key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
                _check_known(key, "the environment", variable)
                if value == "":
                    # An empty variable is how shells and CI files say "not set".
                    continue
                values[key], sources[key] = value, variable
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigurationError(_describe(error, sources)) from None


def _find_project(start: Path) -> Path | None:
    for directory in (start, *start.parents):
        candidate = directory / "pyproject.toml"
        if candidate.is_file() and _read_table(candidate) is not None:
            return candidate
    return None


def _read_table(path: Path) -> dict[str, Any] | None:
    """Return the ``[tool.sequent]`` table; None where the file has none."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error
    table = document.get("tool", {}).get("sequent")
    if table is not None and not isinstance(table, dict):
        raise ConfigurationError(f"[tool.sequent] in {path} must be a table.")
    return table


def _known_keys() -> list[str]:
    return [name for name in Config.model_fields if name != "project_directory"]


def _check_known(key: str, source: str, spelled: str) -> None:
    known = _known_keys()
    if key in known:
        return
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" Known keys: {', '.join(known)}."
    raise ConfigurationError(f"Unknown setting {spelled!r} in {source}.{hint}")


def _describe(error: ValidationError, sources: Mapping[str, str]) -> str:
    """Name each wrong setting and where it came from; never its value, which may hold a password."""
    parts = []
    for item in error.errors(include_input=False, include_url=False):
        key = str(item["loc"][0]) if item["loc"] else "?"
        parts.append(f"{key} ({sources.get(key, 'as given')}): {item['msg']}")
    return "Invalid configuration: " + "; ".join(parts) + "."
