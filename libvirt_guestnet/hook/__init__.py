"""Enforcing: what libvirt's hooks do, from the XML on stdin to the kernel. They arrive in `main`.

Nothing is imported here: an uninteresting hook call must cost no more than the interpreter.
"""
