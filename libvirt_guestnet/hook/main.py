"""Where the installed hook files arrive: `python3 -IS main.py qemu|network OBJECT OPERATION SUBOPERATION EXTRA`."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/libvirt_guestnet/")[0])
    from libvirt_guestnet.hook.lifecycle import run

    sys.exit(run(sys.argv[1], sys.argv[1:]))
