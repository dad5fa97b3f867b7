"""Networks of OVN: what its northbound database must have for a topology, what differs, and making it so.

`wanted` says what rows a topology needs, `compare` what differs from those that are there (both pure), `database` reads
and changes them, and is the only user of ovsdbapp. `hosted` is what libvirt has of such networks.
"""
