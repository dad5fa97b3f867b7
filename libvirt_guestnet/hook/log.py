"""The system's log, for processes that nobody waits for."""

from __future__ import annotations


def complain(text: str) -> None:
    """One line, as an error of the daemon."""
    import syslog

    syslog.openlog("libvirt-guestnet", facility=syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_ERR, " ".join(text.split()))
