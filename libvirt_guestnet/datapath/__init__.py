"""Everything that nft, netlink, iptables and BPF must do; each folder has its part."""
