"""Where the installed hook files arrive: `python3 -IS main.py qemu|network OBJECT OPERATION SUBOPERATION EXTRA`.

Or, after `reconnect` calls: `python3 -IS main.py repair`; as a service: `python3 -IS main.py watch`.
"""

import gc
import sys

if __name__ == "__main__":
    gc.set_threshold(100_000)  # importing makes much that stays: looking at it again and again takes 4 ms
    sys.path.insert(0, __file__.rpartition("/libvirt_guestnet/")[0])
    if sys.argv[1] == "repair":
        from libvirt_guestnet.hook.services import repair

        sys.exit(repair.main())
    if sys.argv[1] == "watch":
        from libvirt_guestnet.hook.services import watch

        sys.exit(watch.main())
    from libvirt_guestnet.hook.lifecycle import run

    sys.exit(run(sys.argv[1], sys.argv[1:]))
