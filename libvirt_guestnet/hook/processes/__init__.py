"""Processes that outlive a hook call: how they are left behind, what says that they are at work, and their time."""
