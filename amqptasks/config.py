"""An app's configuration: the settings as attributes, and the order of the places they come from.

From weak to strong: defaults; `config_from_object` and `config_from_envvar`, later ones over earlier; the
arguments of `App`; the environment (`AMQPTASKS_<SETTING>`); assignment and `update`. So a program carries its
settings, a deployment corrects them, and a running process (or `-b` on the command line) has the last word.
One exception: an app made with `memory://` is a test, and is never sent to another broker by the environment.

Sources are read at the first reading of a setting, then every setting is a plain attribute. Reading and
writing are thread-safe; writing while tasks run changes what is read next, nothing else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from amqptasks.errors import ImproperlyConfigured
from amqptasks.masking import mask_value
from amqptasks.settings import DEFAULTS, NAMES, Settings
from amqptasks.sources import Source, checked, from_environment, unknown

_NAMES = frozenset(NAMES)


class Config(Settings):
    """The settings of one app. Iterating gives their names; `conf["name"]` and `conf.name` are the same."""

    def __init__(
        self, values: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None
    ) -> None:
        """Raises ImproperlyConfigured for an unknown name or a wrong value."""
        self._lock = threading.RLock()
        self._sources: list[Source] = []
        self._values = checked(values or {})
        self._assigned: dict[str, Any] = {}
        self._found: dict[str, Any] = {}
        self._environ = os.environ if environ is None else environ
        self._reading = False
        # For a module that reads settings while it is imported as their source.
        self.__dict__.update(self._values)
        self._defer()

    # --- where settings come from ------------------------------------------------------------------------

    def update(self, *mappings: Mapping[str, Any], **values: Any) -> None:
        """Set several settings; none is set if one is wrong. Raises ImproperlyConfigured."""
        merged: dict[str, Any] = {}
        for mapping in (*mappings, values):
            merged |= mapping
        fresh = checked(merged)
        with self._lock:
            self._assigned |= fresh
            self.__dict__.update(fresh)

    def config_from_object(
        self, source: Any, *, namespace: str | None = None, silent: bool = False, force: bool = False
    ) -> None:
        """Take settings from a mapping, a module, a class or any object, or from its dotted name.

        It is read when a setting is first needed, or at once with `force`. With a namespace only names that
        start with `<NAMESPACE>_` count, in either case. `silent`: a module that does not exist is no error.
        """
        with self._lock:
            self._sources.append(Source(source, namespace, silent))
            self._defer()
        if force:
            self.resolve()

    def config_from_envvar(self, variable: str, *, silent: bool = False, force: bool = False) -> None:
        """Take settings from the module that this environment variable names. Raises ImproperlyConfigured."""
        module = self._environ.get(variable)
        if module:
            self.config_from_object(module, silent=silent, force=force)
        elif not silent:
            raise ImproperlyConfigured(
                f"the environment variable {variable} is not set; it must name a module, or pass silent=True"
            )

    def resolve(self) -> None:
        """Read the sources now, if that has not been done. Raises ImproperlyConfigured."""
        with self._lock:
            if self._reading or type(self) is not _Deferred:
                return
            self._reading = True  # a module that is imported here may itself read a setting
            try:
                self._resolve()
            finally:
                self._reading = False

    def _resolve(self) -> None:
        found: dict[str, Any] = {}
        for source in self._sources:
            found |= source.read()
        found |= self._values
        found |= from_environment(self._environ, found)
        self._found = found
        for name in NAMES:
            default = DEFAULTS[name]
            # Users may write into a dict of their app; the next app must not see it.
            self.__dict__[name] = dict(default) if isinstance(default, Mapping) else default
        self.__dict__.update(found | self._assigned)
        self.__class__ = Config

    def _defer(self) -> None:
        object.__setattr__(self, "__class__", _Deferred)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self.update({name: value})

    # --- reading -----------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # a type checker must go on to refuse names that do not exist

        def __getattr__(self, name: str) -> Any:
            """Answer for a name that does not exist: reached by mistakes only, never by a setting."""
            raise AttributeError(name if name.startswith("_") else unknown(name))

    def __getitem__(self, name: str) -> Any:
        if name not in _NAMES:
            raise KeyError(unknown(name))
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __contains__(self, name: object) -> bool:
        return name in _NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the setting, or `default` when there is no setting of this name."""
        return getattr(self, name) if name in _NAMES else default

    @property
    def changes(self) -> dict[str, Any]:
        """What was set, from whatever source, by name."""
        self.resolve()
        with self._lock:
            return {
                name: self.__dict__[name] for name in NAMES if name in self._found or name in self._assigned
            }

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Return what was set, or every setting; passwords are masked unless told otherwise."""
        values = {name: getattr(self, name) for name in NAMES} if with_defaults else self.changes
        if not censored:
            return values
        return {name: mask_value(name, value) for name, value in values.items()}

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return `table` as text, one `name: value` a line."""
        table = self.table(with_defaults, censored)
        return "\n".join(f"{name}: {value!r}" for name, value in table.items())

    def __repr__(self) -> str:
        return f"<Config {len(self._sources)} sources | {self.humanize().replace(chr(10), ', ')}>"


class _Deferred(Config):
    """A Config whose sources have not been read: the first reading of a setting reads them all.

    Once that is done the object becomes a plain Config, so that later readings cost what an attribute costs.
    """

    def __getattribute__(self, name: str) -> Any:
        if name in _NAMES:
            object.__getattribute__(self, "resolve")()
        return object.__getattribute__(self, name)
