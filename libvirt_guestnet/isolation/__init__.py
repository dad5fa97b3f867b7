"""`guestnet verify --isolation`: what is sent on one network is heard on no other, tried with frames."""
