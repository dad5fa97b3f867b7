"""Enforcing: what libvirt's hooks do. `lifecycle` has the table of calls, `intent*` reads, `entry` and `networks` act.

Nothing is imported here: an uninteresting hook call must cost no more than the interpreter.
"""
