"""Running nft, iptables and other programs, on text that is checked."""
