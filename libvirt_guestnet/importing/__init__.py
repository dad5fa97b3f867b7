"""A topology file of what a host has already: read, decided and written, in that order."""
