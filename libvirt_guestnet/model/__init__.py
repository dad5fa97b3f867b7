"""What a user declared, as facts. Pure."""
