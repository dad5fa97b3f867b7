"""The system's log, for processes whose errors no caller sees, and for problems that are no reason to fail."""

from __future__ import annotations

import sys

_LONGEST = 1000


def line(text: str) -> str:
    """A text as one printable line: names in it come from other people, and may be long."""
    one = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return one if len(one) <= _LONGEST else f"{one[:_LONGEST]}…"


def complain(text: str) -> None:
    """Logs one line, as an error of a daemon."""
    import syslog

    syslog.openlog("libvirt-guestnet", facility=syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_ERR, line(text))


class Looks:
    """The log of a service that looks again and again, after a fault twice a second. A problem that stays is logged
    once, and again only after it was gone. It remembers what two looks found."""

    def __init__(self) -> None:
        self._before: set[str] = set()
        self._now: set[str] = set()

    def complain(self, text: str) -> None:
        if text not in self._before | self._now:
            complain(text)
        self._now.add(text)

    def end(self) -> None:
        """Of one look."""
        self._before, self._now = self._now, set()


def tell(text: str) -> None:
    """One line on stderr, which libvirt passes on when a hook fails."""
    if sys.stderr is not None:
        sys.stderr.write(f"libvirt-guestnet: {line(text)}\n")


def report(text: str) -> None:
    """Both: of a hook that does not fail, libvirt throws stderr away."""
    tell(text)
    complain(text)
