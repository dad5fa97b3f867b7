"""A terminal of a test's own, in the place of standard output or error."""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType

import pytest


class Terminal:
    """What is written to `sys.stdout` or `sys.stderr` meanwhile goes to a pseudo-terminal; `text` has it afterwards."""

    def __init__(
        self, patch: pytest.MonkeyPatch, *names: str, width: int = 120, height: int = 40, encoding: str = "utf-8"
    ) -> None:
        self._patch, self._names, self._encoding = patch, names or ("stdout",), encoding
        self.text = ""
        for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width), "LINES": str(height)}.items():
            patch.setenv(name, value)
        for name in ("NO_COLOR", "FORCE_COLOR"):
            patch.delenv(name, raising=False)

    def __enter__(self) -> Terminal:
        self._end, inner = os.openpty()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._file = os.fdopen(inner, "w", encoding=self._encoding)
        for name in self._names:
            self._patch.setattr(sys, name, self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._patch.undo()
        self._file.close()
        self._reader.join(60)
        os.close(self._end)

    def _read(self) -> None:
        said = b""
        try:
            while more := os.read(self._end, 65536):
                said += more
        except OSError:  # nobody has the other end any more
            pass
        self.text = said.decode().replace("\r\n", "\n")
