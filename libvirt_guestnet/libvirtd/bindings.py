"""libvirt's own module: nothing else imports it."""

from __future__ import annotations

from typing import Any

from libvirt_guestnet.errors import GuestnetError


class _Bindings:
    """libvirt's own module, imported when something of it is wanted first: what only reads a topology needs none of
    it, and only a distribution's package or a compiler with libvirt's headers can provide it (decision 59).
    """

    def load(self) -> Any:
        """Raises GuestnetError where it is missing."""
        try:
            import libvirt
        except ImportError as error:
            raise GuestnetError(
                f"libvirt's Python bindings cannot be loaded: {error}. Install the package python3-libvirt, and make "
                f"guestnet's virtual environment with --system-site-packages, as scripts/setup does"
            ) from None
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # by default it prints errors on stderr
        return libvirt

    def __getattr__(self, name: str) -> Any:
        module = self.load()
        for each, value in vars(module).items():
            if not each.startswith("__"):
                setattr(self, each, value)
        return getattr(module, name)


libvirt: Any = _Bindings()
