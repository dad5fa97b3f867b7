"""Devices that networks need: VXLAN, VLAN subinterfaces, VLAN-aware bridges."""
