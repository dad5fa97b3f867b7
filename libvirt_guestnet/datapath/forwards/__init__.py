"""Port forwards and floating addresses, as one nft table."""
