"""The NIC that is being plugged in, and what killed processes left undone."""
