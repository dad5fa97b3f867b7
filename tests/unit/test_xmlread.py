"""XML that tenants write: read in linear time and bounded memory, or refused, and never half read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from libvirt_guestnet import xmlread
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import concern
from libvirt_guestnet.hook.processes import deadline
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.xmlread import MAX_BYTES, MAX_MARKS

ROOT = Path(__file__).parents[2]
# As libvirt writes it, and lets users see it.
HOST = b"        <host mac='52:54:00:61:0a:0b' name='guest-12345' ip='10.61.123.234'/>\n"

# Memory is the process's: one for each document.
READ = """
import resource, sys
sys.path.insert(0, sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (160 << 20, 160 << 20))
from libvirt_guestnet.hook.processes import deadline
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet import xmlread
try:
    print(xmlread.parse(sys.stdin.buffer.read()).tag)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_libvirts_users_stay_far_below_the_limits() -> None:
    # As many reservations as libvirt's API passes in one string.
    most = (4 << 20) // len(HOST)
    network = xmlread.parse(b"<network><name>n</name><ip><dhcp>" + HOST * most + b"</dhcp></ip></network>")
    assert sum(1 for _ in network.all("ip/dhcp/host")) == most > 50_000
    assert network.text_of("name") == "n"


def test_what_is_said_twice_since_a_hook_imports_nothing_at_first_is_the_same() -> None:
    said = concern.MAX_STDIN, concern.SECONDS, concern.HOSTWIDE
    assert said == (MAX_BYTES, deadline.SECONDS, hostwide.FILE)


HOSTILE = {
    "short lines": (b"x\n" * (MAX_BYTES // 2 - 20), "r"),
    "pieces of text": (b"x&#10;" * (MAX_BYTES // 6 - 20), "r"),
    "empty elements": (b"<a/>" * (MAX_MARKS - 3), "r"),
    "own names": (b"".join(b"<a%d/>" % n for n in range(MAX_MARKS - 3)), "r"),
    "an attribute each": (b'<a b="1"/>' * (MAX_MARKS // 2 - 3), "r"),
    "many attributes": (b"<a " + b" ".join(b'a%d="%d"' % (n, n) for n in range(MAX_MARKS - 8)) + b"/>", "r"),
    "wide characters": ("\U0001f600".encode() + b"x" * (MAX_BYTES - 40), "r"),
    "too many elements": (
        b"<a/>" * MAX_MARKS,
        f"GuestnetError XML of more than {MAX_MARKS} tags and attributes refused",
    ),
    "too many attributes": (
        b"<a " + b" ".join(b"a%d=''" % n for n in range(MAX_MARKS)) + b"/>",
        f"GuestnetError XML of more than {MAX_MARKS} tags and attributes refused",
    ),
    "too long": (b" " * MAX_BYTES, "GuestnetError XML of more than 8 MiB refused"),
    # 35 s and 5.8 GiB, if each element's name were kept.
    "a long namespace": (
        b"<x:r xmlns:x='" + b"n" * 20000 + b"'>" + b"".join(b"<x:a%d/>" % n for n in range(MAX_MARKS // 2)) + b"</x:r>",
        "GuestnetError XML with too long a namespace refused",
    ),
    "too deep": (b"<a>" * 300 + b"</a>" * 300, "GuestnetError XML nested more than 200 deep refused"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_it_says_takes_bounded_memory_and_time(kind: str) -> None:
    text, said = HOSTILE[kind]
    argv = [sys.executable, "-IS", "-c", READ, str(ROOT)]
    done = subprocess.run(argv, input=b"<r>" + text + b"</r>", capture_output=True, timeout=60)
    assert (done.stdout.decode().strip(), done.stderr) == (said, b"")


def test_text_is_whole_up_to_a_bound() -> None:
    name = "n\u00e4me & more"
    assert xmlread.parse(f"<d><name> {name.replace('&', '&amp;')}\n</name></d>".encode()).text_of("name") == name
    assert xmlread.parse(b"<d><n>a<b/>b</n></d>").text_of("n") == "ab"
    assert len(xmlread.parse(b"<d><n>" + b"ab\n" * 100_000 + b"</n></d>").children[0].text) == 4096


def test_an_unclosed_document_is_refused() -> None:
    with pytest.raises(GuestnetError, match="XML cannot be read: no element found"):
        xmlread.parse(b"<domain>")
