"""What other firewalls must let pass."""
