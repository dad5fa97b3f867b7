"""What is done for whole domains and networks, one by one or all at once."""
