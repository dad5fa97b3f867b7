"""`guestnet doctor`: facts about a host, and what they mean."""
