"""The virtual router: what its appliance is told (pure), the appliance's image, and the client of the agent in it."""
