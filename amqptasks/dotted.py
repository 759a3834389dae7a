"""Objects by their dotted names, for settings and options that name a class: `pkg.mod:Class` or `pkg.mod.Class`.

Imports what it is told to. Knows nothing of what is named.
"""

from __future__ import annotations

import importlib
from typing import Any

from amqptasks.errors import ImproperlyConfigured


def find(path: str, what: str) -> Any:
    """Return what `path` names. `what` says in errors where the name was given.

    Raises ImproperlyConfigured when there is no such module or attribute; what the module itself raises when it
    is imported goes through.
    """
    module, colon, attribute = path.partition(":")
    if not colon:
        module, _, attribute = path.rpartition(".")
    cure = "write 'package.module:Class' or 'package.module.Class'"
    if not module or not attribute:
        raise ImproperlyConfigured(f"{what} is {path!r}, which names no attribute of a module; {cure}")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists; what it imports does not
        raise ImproperlyConfigured(
            f"{what} is {path!r}, but there is no module {error.name!r}; {cure}"
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ImproperlyConfigured(
                f"{what} is {path!r}, but {module} has no {attribute!r}; {cure}"
            ) from None
    return found


def find_class(given: Any, base: type, what: str) -> type[Any]:
    """Return the class that `given` is or names. Raises ImproperlyConfigured unless it inherits from `base`."""
    found = find(given, what) if isinstance(given, str) else given
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ImproperlyConfigured(
            f"{what} is {given!r}, which is no class that inherits from {base.__module__}.{base.__qualname__}"
        )
    return found
