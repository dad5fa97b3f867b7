"""Enforcing: what libvirt's hooks do, from the XML on stdin to the kernel. `main` is where they begin.

Nothing is imported here: a hook call that does not concern us must cost no more than starting the interpreter.
"""
