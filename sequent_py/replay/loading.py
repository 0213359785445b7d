"""The application's code, by the name of its migrations class."""

from __future__ import annotations

import importlib

from sequent_py.errors import ConfigurationError, SequentError
from sequent_py.event_classes import EventTypes
from sequent_py.view_schema.migrations import Migrations, served_definitions

_FORM = 'Name a Migrations class: [tool.sequent] migrations_class = "package.module:Class"'


def load_migrations(reference: str) -> type[Migrations]:
    """Import ``module:Class``.

    Raises
    ------
    ConfigurationError
        There is no such module or class, or it is not a Migrations class.
    """
    module_name, _, class_name = reference.partition(":")
    if not module_name or not class_name:
        raise ConfigurationError(f"{reference!r} is not of the form module:Class.", remedy=_FORM)
    try:
        found: object = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{reference!r} cannot be imported: {error}.",
            remedy="Check migrations_class in [tool.sequent], and that the module is beside pyproject.toml or installed.",
        ) from error
    except AttributeError as error:
        raise ConfigurationError(f"{reference!r} cannot be imported: {error}.", remedy=_FORM) from error
    except SequentError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"Importing {module_name!r}, which migrations_class names, failed: {_where(error)}{type(error).__name__}: {error}.",
            remedy="Mend the module; --debug shows where.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Migrations)):
        raise ConfigurationError(f"{reference!r} is not a Migrations class.", remedy=_FORM)
    return found


def _where(error: Exception) -> str:
    """Name the file of a syntax error whole; its message has the last part only."""
    return f"{error.filename}: " if isinstance(error, SyntaxError) and error.filename else ""


def event_types_of(migrations: type[Migrations]) -> EventTypes:
    """Return the registry of an application: the classes that its projectors handle, and its package for the others."""
    served = served_definitions(migrations)
    classes = {cls for each in served for item in each.projectors for cls in item.event_classes}
    return EventTypes(
        sorted(classes, key=lambda cls: cls.__qualname__),
        preferred_package=migrations.__module__.partition(".")[0],
    )
