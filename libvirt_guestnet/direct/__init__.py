"""`guestnet guard`, `forward` and `address`: what is changed of guests and networks without a topology file. It stands
in libvirt's metadata alone, under the name DIRECT in the place of a topology's, and goes through the same plan and
apply."""
