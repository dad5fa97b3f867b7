"""JSON by the core that `json` is made of. `json` itself also imports `re` and `enum`, and all that takes a sixth
of what a hook's imports take (decision 75). On the hook path; UTF-8 alone.
"""

from __future__ import annotations

from libvirt_guestnet.light_typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    def dumps(value: object) -> str:
        """The same text as `json.dumps` makes."""

    def loads(data: bytes | str) -> Any:
        """Raises ValueError, or RecursionError on what is nested too deep."""
else:
    try:
        from _json import encode_basestring_ascii, make_encoder, make_scanner

        class _Options:
            strict, memo = True, None
            object_hook = object_pairs_hook = None
            parse_int, parse_float, parse_constant = int, float, float

        _encode = make_encoder(None, None, encode_basestring_ascii, None, ": ", ", ", False, False, True)
        _scan = make_scanner(_Options)
    except (ImportError, AttributeError, TypeError):  # it is private, and may be another in a later Python
        from json import dumps, loads
    else:

        def dumps(value):
            return "".join(_encode(value, 0))

        def loads(data):
            text = (data.decode() if isinstance(data, bytes) else data).strip(" \t\r\n")
            try:
                value, end = _scan(text, 0)
            except (StopIteration, SystemError):  # SystemError: its own error, for which it wants json to be imported
                end = -1
            if end != len(text):
                import json

                return json.loads(text)  # which says what is wrong
            return value


__all__ = ["dumps", "loads"]
