"""libvirt-guestnet: guest networks for libvirt, described once and enforced by libvirt's own hooks."""

__version__ = "0.2.0"
