"""What there is, for `guestnet status`: by libvirt, by receipts, by the kernel."""
