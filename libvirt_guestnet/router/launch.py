"""What a hook leaves behind when a router of a pair starts: `python3 -IS launch.py ROUTER`. No hook imports it."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/libvirt_guestnet/")[0])
    from libvirt_guestnet.router import arbitrate

    sys.exit(arbitrate.main(sys.argv[1]))
