"""A topology run for real: stand-ins for the LANs, tiny guests, and every `expect:` line checked.

`endpoints` says who has which address (pure), `checks` turns `expect:` into single checks (pure), `forge` makes the
frames that must arrive nowhere (pure), `standin` and `run` bring a lab up and down, `verify` runs the checks.
"""
