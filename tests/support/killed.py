"""Hooks killed where it matters: right before their Nth step that changes something outside of them.

What is killed between two such steps leaves what is killed before the second one leaves, so there is no need to try
every line. Calls of very many steps are killed before every third.
"""

from __future__ import annotations

import sys
from pathlib import Path

THIRD = 3
LIBRARY = Path(__file__).parents[2]
# Files, programs and what waits for them, forks and devices; over netlink and by bpf() what is more than a question.
PREPARE = f"""
import os, sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.hook import concern, dispatch, main
from libvirt_guestnet.hook.enforce import bridge_guard, host_routes, reachability
from libvirt_guestnet.hook.read import host_routed
from libvirt_guestnet.hook.calls import repair
BUILTIN = {{"replace", "rename", "unlink", "mkdir", "utime", "posix_spawnp", "poll", "fork", "ioctl", "write"}}
OURS = {{"_change", "_element", "pin", "load_one", "announce"}}
def kill_before(number):
    '''Step 0 is none. What the process leaves behind goes on.'''
    left, mine = [number], os.getpid()
    def see(frame, event, what):
        if what.__name__ in BUILTIN if event == "c_call" else event == "call" and frame.f_code.co_name in OURS:
            left[0] -= 1
            if not left[0] and os.getpid() == mine:
                os.kill(mine, 9)
    if number:
        sys.setprofile(see)
"""
# One hook call: the number of the step, the hook, the object and so on.
CALL = f"{PREPARE}kill_before(int(sys.argv[1]))\nsys.exit(main.run(sys.argv[2], sys.argv[2:]))"
KILLED_REPAIR = f"{PREPARE}repair._settle = lambda: None\nkill_before(int(sys.argv[1]))\nrepair.main()\nprint('done')"
# One call of a hook in which something of ours is another.
ALTERED_CALL = f"""
import os, sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.hook.enforce import bridge_guard as bridges, checksum_guard as offload, forwards
from libvirt_guestnet.hook.processes import incoming
from libvirt_guestnet.hook import concern, main
def killed(*_):
    os.kill(os.getpid(), 9)
{{}}
sys.exit(main.run(sys.argv[1], sys.argv[1:]))
"""


def command(step: int, hook: str, name: str, operation: str, code: str = CALL) -> list[str]:
    """The command of one hook call; it says 137 if it got as far as that step, 0 if it did not."""
    python = [sys.executable, "-IS", "-c", code, str(step), hook, name, operation, "begin", "-"]
    return ["sh", "-c", '"$@"; echo $?', "sh", *python]
