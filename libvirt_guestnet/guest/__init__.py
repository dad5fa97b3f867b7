"""The project's own tiny guest: its image, the configuration it reads, and the agent it answers through."""
