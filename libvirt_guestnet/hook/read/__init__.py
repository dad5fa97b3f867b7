"""From XML to typed wants. Pure, but for libvirt's own records."""
