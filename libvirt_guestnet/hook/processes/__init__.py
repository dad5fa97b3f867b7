"""Processes that outlive a hook call: how they are left behind, their notes, and their deadline."""
