"""Netlink: devices, routes, single chains, bridge entries."""
