"""`guestnet hooks`"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from dataclasses import asdict

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.install import hook_files


def hooks(args: Namespace) -> int:
    """`guestnet hooks`"""
    from libvirt_guestnet.hook.live import release_all, take_over_state
    from libvirt_guestnet.install import service

    if args.action != "status" and os.geteuid() != 0:
        raise GuestnetError(f"hooks {args.action}: only root may do that: run it with sudo")
    if args.action == "sync":
        return _sync(args)
    messages: list[str] = []
    if args.action == "install":
        take_over_state()
        states = hook_files.install(any_owner=args.any_owner, tell=messages.append)
        service.install()
    elif args.action == "uninstall":
        service.uninstall()
        states = hook_files.uninstall(tell=messages.append)
        # Without hooks nothing would ever remove the filters, and they outlive their taps.
        release_all()
    else:
        states = hook_files.status()
    if args.json:
        print(json.dumps([asdict(state) for state in states], indent=2))
    else:
        for state in states:
            print(f"{state.path}: {_hook_text(state)}")
    if any(state.restart_needed for state in states):
        messages.append(f"once, and guests go on: {hook_files.restart_command()}")
    for line in messages:
        print(line, file=sys.stderr if args.json else sys.stdout)
    return 0


def _hook_text(state: hook_files.HookStatus) -> str:
    if not state.installed:
        return "not installed"
    text = "installed" if state.current else "installed, but of another version: run `guestnet hooks install`"
    text += "; restart the libvirt daemon once, so that it sees its first hook" if state.restart_needed else ""
    return f"{text}; {state.run_by} runs it a second time: {hook_files.RUN_TWICE}" if state.run_by else text


def _sync(args: Namespace) -> int:
    """Makes the kernel match what runs: guards every running guest, removes what nobody needs."""
    from libvirt_guestnet import terminal
    from libvirt_guestnet.apply.sync import sync
    from libvirt_guestnet.libvirtd.connection import connect

    hook_files.take_over()
    with connect(args.connect) as connection, terminal.Progress(sys.stderr) as progress:
        result = sync(connection, progress)
    for text in (*result.failures, *result.unrouted):
        sys.stderr.write(f"guestnet: {text}\n")
    return 1 if result.failures else 0
