"""Enforcing: what libvirt's hooks do. `lifecycle` has the table of calls, `intent*` reads, `entry` acts.

Nothing is imported here: an uninteresting hook call must cost no more than the interpreter.
"""
