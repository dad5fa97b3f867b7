"""Receipts under /run: what was applied, for whom."""
