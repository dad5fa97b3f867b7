"""The host as a router: gateways, host routes, published neighbours."""
