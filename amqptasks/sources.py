"""What a user wrote, wherever it stands: objects, modules, the environment; checked name by name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from amqptasks import foreign_settings
from amqptasks.coercion import coerce, describe
from amqptasks.errors import ImproperlyConfigured
from amqptasks.masking import mask_value
from amqptasks.settings import NAMES, Settings

ENVIRONMENT_PREFIX = "AMQPTASKS_"

_NAMES = frozenset(NAMES)
_FAMILIES = tuple(sorted({f"{name.split('_', 1)[0]}_" for name in NAMES if "_" in name}))


class UnusedSetting(UserWarning):
    """A setting of Celery's that means nothing here; the message says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """One call of `config_from_object`, read when the settings are first needed."""

    origin: Any
    namespace: str | None = None
    silent: bool = False

    def read(self) -> dict[str, Any]:
        """Return its settings. Raises ImproperlyConfigured, and whatever the user's module raises."""
        origin = self._opened() if isinstance(self.origin, str) else self.origin
        if origin is None:
            return {}
        if isinstance(origin, Mapping):
            return checked(self._named(dict(origin)))
        # What `dir` lists includes what a class inherits, and what django.conf.settings computes.
        found = {name: getattr(origin, name) for name in dir(origin) if not name.startswith("_")}
        named = self._named(found)
        return checked(named if self.namespace else {k: v for k, v in named.items() if _is_meant(k, v)})

    def _opened(self) -> Any:
        path, _, attribute = self.origin.partition(":")
        try:
            return _attribute(importlib.import_module(path), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise  # the module exists; what it imports does not
        parent, _, last = path.rpartition(".")
        try:
            return _attribute(importlib.import_module(parent or path), last)
        except (ModuleNotFoundError, AttributeError) as error:
            if isinstance(error, ModuleNotFoundError) and not f"{path}.".startswith(f"{error.name}."):
                raise
        if self.silent:
            return None
        raise ImproperlyConfigured(
            f"there is no configuration module {self.origin!r}; is it in the working folder or on PYTHONPATH?"
        )

    def _named(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return what carries the namespace, as `checked` wants it: CELERY_TASK_ROUTES -> task_routes."""
        if not self.namespace:
            return found
        prefix = f"{self.namespace.rstrip('_')}_".casefold()
        result: dict[str, Any] = {}
        for name, value in found.items():
            if not name.casefold().startswith(prefix):
                continue
            bare = name[len(prefix) :].lower()
            old = _old_names().get(name.upper())
            result[bare if is_known(bare) or old is None else old] = value
        return result


def _attribute(module: Any, name: str) -> Any:
    return getattr(module, name) if name else module


def _is_meant(name: str, value: Any) -> bool:
    """Tell a setting, perhaps misspelt, from the imports, functions and variables that stand beside it."""
    if is_known(name) or name in _old_names():
        return True
    if inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value):
        return False
    if name.isupper():
        return name.startswith(foreign_settings.OLD_PREFIXES)
    return name.startswith(_FAMILIES) or bool(difflib.get_close_matches(name, NAMES, n=1, cutoff=0.85))


def from_environment(environ: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that AMQPTASKS_* variables name; `found` is what the program says.

    Variables that are no setting belong to the command line, so a misspelt one is warned of, not refused.
    """
    given = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): text
        for name, text in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    for name in given:
        near = [] if name in _NAMES else difflib.get_close_matches(name, NAMES, n=1, cutoff=0.9)
        if near:
            variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
            _warn_once(
                variable, f"{variable} is no setting; did you mean {ENVIRONMENT_PREFIX}{near[0].upper()}?"
            )
    settings = {name: text for name, text in given.items() if name in _NAMES}
    if str(found.get("broker_url", "")).startswith("memory://"):
        settings = {name: text for name, text in settings.items() if not name.startswith("broker_")}
    return checked(settings)


@cache
def _annotations() -> Mapping[str, Any]:
    return get_type_hints(Settings, include_extras=True)


@cache
def _old_names() -> Mapping[str, str]:
    return foreign_settings.old_names((*NAMES, *foreign_settings.UNUSED))


def is_known(name: str) -> bool:
    """Tell whether `checked` has an answer for this name other than "unknown"."""
    return name in _NAMES or name in foreign_settings.REFUSED or foreign_settings.unused(name) is not None


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among `values` under their names here, each as its declared type.

    Warns of settings that mean nothing here. Raises ImproperlyConfigured for unknown and wrong ones.
    """
    result: dict[str, Any] = {}
    for given, value in values.items():
        name = given if given in _NAMES else _old_names().get(given, given)
        if name in _NAMES:
            result[name] = _checked(name, value)
        elif name in foreign_settings.REFUSED:
            raise ImproperlyConfigured(f"setting {given!r} is not used: {foreign_settings.REFUSED[name]}")
        elif (reason := foreign_settings.unused(name)) is not None:
            _warn_once(given, f"setting {given!r} of Celery's has no effect here: {reason}")
        else:
            raise ImproperlyConfigured(unknown(given))
    return result


def _checked(name: str, value: Any) -> Any:
    annotation = _annotations()[name]
    shown = repr(mask_value(name, value))
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    try:
        return coerce(annotation, value)
    except TypeError:
        raise ImproperlyConfigured(
            f"setting {name!r} must be {describe(annotation)}, not {shown} ({type(value).__name__})"
        ) from None
    except ValueError as error:
        raise ImproperlyConfigured(f"setting {name!r} cannot be {shown}: {error}") from None


def unknown(name: str) -> str:
    """Return the sentence for a setting that does not exist, with the nearest one that does."""
    lower = name.lower()
    near = difflib.get_close_matches(lower, NAMES, n=1, cutoff=0.7)
    if not near:  # one word of two may be missing: `acks_late`
        near = [full for full in NAMES if full.split("_", 1)[-1] == lower][:1]
    cure = (
        f"did you mean {near[0]!r}?"
        if near
        else "the settings are listed by `conf.table(with_defaults=True)`"
    )
    return f"unknown setting {name!r}; {cure}"


_warned: set[str] = set()


def _warn_once(name: str, message: str) -> None:
    if name not in _warned:
        _warned.add(name)
        warnings.warn(message, UnusedSetting, stacklevel=2)
