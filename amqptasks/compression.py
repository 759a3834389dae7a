"""Compression by Celery's names and content types, with a cap on what a message may inflate to. Pure."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from amqptasks.errors import DecodeError, ImproperlyConfigured, Inflated

GZIP, BZIP2, LZMA, ZSTD = "application/x-gzip", "application/x-bz2", "application/x-lzma", "application/zstd"
NAMES = {
    "gzip": GZIP,
    "zlib": GZIP,  # kombu's gzip is zlib's format, under both names
    "bzip2": BZIP2,
    "bzip": BZIP2,
    "bz2": BZIP2,
    "lzma": LZMA,
    "xz": LZMA,
    "zstd": ZSTD,
    "zstandard": ZSTD,
}
_LZMA_MEMORY = 128 << 20
"""Bytes that reading lzma may take for its dictionary; its strongest preset needs 65 MiB."""


class Inflator(Protocol):
    """What the standard library's decompressors share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def compress(body: bytes, name: str) -> tuple[str, bytes]:
    """Return the content type of the compression and the compressed body.

    Raises ImproperlyConfigured for a name that nothing here has.
    """
    kind = NAMES.get(name, name)
    try:
        writer = _WRITERS[kind]
    except KeyError:
        raise ImproperlyConfigured(
            f"no compression is named {name!r}; there are {', '.join(sorted(NAMES))}"
        ) from None
    return kind, writer(body)


def inflate(body: bytes, kind: str, limit: int) -> bytes:
    """Return the body as it was.

    Raises Inflated above `limit` bytes, never holding more, and DecodeError for what is not so compressed.
    """
    try:
        reader = _READERS[NAMES.get(kind, kind)]
    except (KeyError, TypeError):
        raise DecodeError(f"the body is compressed as {kind!r:.80}, which nothing here reads") from None
    pieces: list[bytes] = []
    size, rest = 0, body
    while rest:  # kombu's readers take streams that were joined
        piece, rest = _one_stream(reader(), rest, limit - size)
        pieces.append(piece)
        size += len(piece)
    if not pieces:
        raise DecodeError("the body is empty, which no compression makes of anything")
    return b"".join(pieces)


def _one_stream(inflator: Inflator, data: bytes, limit: int) -> tuple[bytes, bytes]:
    try:
        # One byte more than allowed tells too large from just fitting.
        piece = inflator.decompress(data, limit + 1)
        # The end mark may come after the last byte of content.
        if len(piece) <= limit and not inflator.eof:
            piece += inflator.decompress(_unread(inflator), limit + 1 - len(piece))
    except lzma.LZMAError as error:
        if "memory" in str(error).lower():
            raise Inflated(f"reading the body takes more memory than {_LZMA_MEMORY} bytes") from error
        raise DecodeError(f"the body cannot be decompressed: {error}") from error
    except Exception as error:
        raise DecodeError(f"the body cannot be decompressed: {error}") from error
    if len(piece) > limit:
        raise Inflated("the body inflates to more bytes than `message_inflate_limit` allows")
    if not inflator.eof:
        raise DecodeError("the compressed body ends too early")
    return piece, inflator.unused_data


def _unread(inflator: Any) -> bytes:
    """What zlib has not consumed; the others keep that to themselves."""
    tail: bytes = getattr(inflator, "unconsumed_tail", b"")
    return tail


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415 - from Python 3.14
        else:
            from backports import zstd  # noqa: PLC0415 - optional
    except ImportError:
        raise ImproperlyConfigured(
            "the compression 'zstd' needs a package: pip install 'amqptasks[zstd]'"
        ) from None
    return zstd


def _zstd_compress(body: bytes) -> bytes:
    packed: bytes = _zstd().compress(body)
    return packed


_WRITERS: dict[str, Callable[[bytes], bytes]] = {
    GZIP: zlib.compress,
    BZIP2: bz2.compress,
    LZMA: lzma.compress,
    ZSTD: _zstd_compress,
}
_READERS: dict[str, Callable[[], Any]] = {
    GZIP: lambda: zlib.decompressobj(zlib.MAX_WBITS | 32),  # zlib's format, and gzip's from other languages
    BZIP2: bz2.BZ2Decompressor,
    LZMA: lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
    ZSTD: lambda: _zstd().ZstdDecompressor(),
}
