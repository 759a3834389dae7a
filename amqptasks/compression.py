"""Compression by Celery's names and content types, with a cap on what a message may inflate to. Pure."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any

from amqptasks.errors import DecodeError, ImproperlyConfigured, Inflated

NAMES = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",  # kombu's gzip is zlib's format, under both names
    "bzip2": "application/x-bz2",
    "bz2": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}
CHUNK = 1 << 16


def compress(body: bytes, name: str) -> tuple[str, bytes]:
    """Return the content type of the compression and the compressed body. Raises ImproperlyConfigured."""
    match NAMES.get(name, name):
        case "application/x-gzip" as kind:
            return kind, zlib.compress(body)
        case "application/x-bz2" as kind:
            return kind, bz2.compress(body)
        case "application/x-lzma" as kind:
            return kind, lzma.compress(body)
        case "application/zstd" as kind:
            packed: bytes = _zstd().compress(body)
            return kind, packed
    raise ImproperlyConfigured(f"no compression is named {name!r}; there are {', '.join(sorted(NAMES))}")


def inflate(body: bytes, kind: str, limit: int) -> bytes:
    """Return the body as it was. Raises Inflated above `limit` bytes, DecodeError for what is not compressed so."""
    if limit <= 0:
        raise Inflated("message_inflate_limit allows no compressed messages")
    match NAMES.get(kind, kind):
        case "application/x-gzip":
            made: Any = zlib.decompressobj()
            return _bounded(
                lambda data, most: made.decompress(data, most),
                lambda: made.eof,
                lambda: made.unconsumed_tail,
                body,
                limit,
            )
        case "application/x-bz2":
            return _drained(bz2.BZ2Decompressor(), body, limit)
        case "application/x-lzma":
            return _drained(lzma.LZMADecompressor(), body, limit)
        case "application/zstd":
            return _drained(_zstd().ZstdDecompressor(), body, limit)
    raise DecodeError(f"the body is compressed as {kind!r}, which nothing here reads")


def _drained(decompressor: Any, body: bytes, limit: int) -> bytes:
    return _bounded(decompressor.decompress, lambda: decompressor.eof, lambda: b"", body, limit)


def _bounded(
    step: Callable[[bytes, int], bytes],
    ended: Callable[[], bool],
    rest: Callable[[], bytes],
    body: bytes,
    limit: int,
) -> bytes:
    pieces: list[bytes] = []
    size = 0
    data = body
    try:
        while not ended():
            piece = step(data, min(CHUNK * 16, limit + 1 - size))
            data = rest()
            if not piece and not data and not ended():
                raise DecodeError("the compressed body ends too early")
            size += len(piece)
            pieces.append(piece)
            if size > limit:
                raise Inflated(f"the body inflates to more than {limit} bytes (`message_inflate_limit`)")
    except DecodeError:
        raise
    except Exception as error:
        if isinstance(error, Inflated):
            raise
        raise DecodeError(f"the body cannot be decompressed: {error}") from error
    return b"".join(pieces)


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise ImproperlyConfigured("zstd is not installed: pip install 'amqptasks[zstd]'") from None
    return zstd
