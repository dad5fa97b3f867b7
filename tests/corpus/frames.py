"""The frame corpus: what an honest guest sends, and what a guest that pretends to be somebody else sends.

Every frame is named by what it is, with its source: an RFC, a CVE, or the filter that lets it through.
"""

from forged import FORGED
from honest import HONEST, JUMBO
from make import ME, ME4, ME6, MY_LL, THEM, THEM4, THEM6, inside, is_same, marked, mine, sentinel

__all__ = [
    "FORGED",
    "HONEST",
    "JUMBO",
    "ME",
    "ME4",
    "ME6",
    "MY_LL",
    "THEM",
    "THEM4",
    "THEM6",
    "inside",
    "is_same",
    "marked",
    "mine",
    "sentinel",
]

# No Linux bridge carries these in the first place: multicast sources, the addresses that 802.1D keeps to a link, and
# tags that end too soon.
UNCARRIED = {
    *(f"vlan: {size} octets of a tag" for size in range(5)),
    "mac: a multicast source MAC",
    "mac: all zeros",
    *(name for name, frame in FORGED.items() if frame[:5] == b"\x01\x80\xc2\0\0" and 0 < frame[5] < 16),
}
