"""Putting back what is missing: after a restart of libvirt's daemon, and all the time."""
