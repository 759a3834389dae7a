"""Keeps secrets out of what is shown: banners, reports, errors, logs. Knows names and URLs only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "********"

_SECRET = re.compile(r"password|passwd|secret|token|api_?key|(^|_)key$", re.IGNORECASE)
_ROUTING_KEY = re.compile(r"(routing|binding)_key$", re.IGNORECASE)


def mask_url(text: str) -> str:
    """Return a URL's text (also a list joined by `;`) with `**` for its passwords, parseable or not."""
    # A password may itself hold `/` or `@` where it should be %2F or %40: mask up to the last `@`.
    bare = re.sub(r"(://[^:@/;]*:)[^;]*@", r"\1**@", text)
    return re.sub(r"([?&][^=&;]*(?:password|secret|token)[^=&;]*=)[^&;]*", r"\1**", bare, flags=re.IGNORECASE)


def mask_value(name: str, value: Any) -> Any:
    """Return `value` as it may be shown under this name: secrets as asterisks, URLs without passwords."""
    if isinstance(value, Mapping):
        return {key: mask_value(str(key), inner) for key, inner in value.items()}
    if value and _SECRET.search(name) and not _ROUTING_KEY.search(name):
        return MASK
    if isinstance(value, str):
        return mask_url(value) if "://" in value else value
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return type(value)(mask_value(name, part) for part in value)
    return value
