"""What the installed hook files run: `python3 -IS main.py qemu|network OBJECT OPERATION SUBOPERATION EXTRA`.

After `reconnect` calls they run `python3 -IS main.py repair`; the service runs `python3 -IS main.py watch`.
"""

import gc
import sys


def run(hook: str, argv: list[str]) -> int:
    """Does one hook call, if it concerns us; returns its exit status. argv is that of the hook: [file, object,
    operation, …]."""
    from libvirt_guestnet.hook import concern

    concerns = concern.CONCERNS.get((hook, argv[2] if len(argv) > 2 else ""))
    if concerns is None:
        return 0
    data = concern.read()
    if data is not None and not concerns(argv[1], data):
        return 0
    try:
        from libvirt_guestnet.hook.dispatch import dispatch
    except Exception as error:  # a damaged installation must not end a call that libvirt kills guests for
        what = ascii(f"{hook} {argv[1]} {argv[2]}: its library is broken: {type(error).__name__}: {error}")[1:-1]
        print(f"libvirt-guestnet: {what}: reinstall it", file=sys.stderr)
        return int((hook, argv[2]) in concern.VETOED)
    return dispatch(hook, argv, data)


# After so many new objects those that refer to each other, and that nobody else needs, are freed.
_MANY_OBJECTS = 10_000


def main(argv: list[str]) -> int:
    """One hook call, a repair of all guests, or the service."""
    if argv[1] in ("repair", "watch"):
        # They read many domains, each with NICs that refer to it: without this such garbage would be up to 15 MiB.
        gc.freeze()
        gc.set_threshold(_MANY_OBJECTS)
    if argv[1] == "repair":
        from libvirt_guestnet.hook.calls import repair

        return repair.main()
    if argv[1] == "watch":
        from libvirt_guestnet.hook.services import watch

        return watch.main()
    return run(argv[1], argv[1:])


if __name__ == "__main__":
    gc.set_threshold(100_000)  # imports make many objects that stay; to go through them again and again takes 4 ms
    sys.path.insert(0, __file__.rpartition("/libvirt_guestnet/")[0])
    status = main(sys.argv)
    import os

    # Nothing is left to write: stderr is written line by line. To free each object at the end would take 5 ms.
    os._exit(status)
