"""What one port may send, as nft text and a BPF program."""
