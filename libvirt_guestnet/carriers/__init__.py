"""What carries a network's frames, and its VLANs, on a host: one module each, behind one contract."""
