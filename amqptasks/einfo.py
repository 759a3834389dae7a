"""What a task's handlers get as `einfo`. Knows nothing but exceptions."""

from __future__ import annotations


class ExceptionInfo:
    """What handlers get as `einfo`: the exception and its traceback as text; `str()` is the traceback."""

    __slots__ = ("exception", "traceback")

    def __init__(self, exception: BaseException, traceback: str) -> None:
        self.exception = exception
        self.traceback = traceback

    @property
    def type(self) -> type[BaseException]:
        return type(self.exception)

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"
