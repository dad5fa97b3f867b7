"""What the kernel must do for a port: `filters` plans it (pure), `kernel` does it."""
