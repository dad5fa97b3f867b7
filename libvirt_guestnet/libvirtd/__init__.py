"""The only user of libvirt's API, and what it has read."""
