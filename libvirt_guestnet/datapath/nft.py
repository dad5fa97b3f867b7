"""Applying nft batches: the nft program, one transaction a batch. Imports next to nothing: it is on the hook path."""

from __future__ import annotations

from libvirt_guestnet.datapath import program
from libvirt_guestnet.errors import GuestnetError

NFT_SECONDS = program.SECONDS


def nft(batch: str, hold: int | None = None) -> None:
    """Applies an nft batch in one transaction: all of it or, with a GuestnetError, nothing.

    A lock behind the descriptor `hold` lasts until the batch is in the kernel, even if we are killed meanwhile.
    """
    if not batch:
        return
    output = program.run(["nft", "-f", "-"], batch, "nftables", hold)
    if output.status != 0:
        raise GuestnetError(f"nft refused the change: {output.complaint}")


def listed(*what: str) -> list[str]:
    """The lines of `nft -a list …` (with handles); none where there is no such thing. Raises GuestnetError."""
    return program.run(["nft", "-a", "list", *what], "", "nftables").stdout.splitlines()
