"""The service that puts back what somebody else takes away."""
