"""From what is wanted to the kernel and the receipts, under the state's lock."""
