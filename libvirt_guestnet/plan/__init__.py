"""What differs between a topology and what libvirt has, and in which order to change it. Pure."""
