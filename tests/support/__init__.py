"""What several tests share: checkers, hosts of every kind, and what is done on them."""
