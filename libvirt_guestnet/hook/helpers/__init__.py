"""Processes that outlive a hook call, and what is owed when one is killed."""
