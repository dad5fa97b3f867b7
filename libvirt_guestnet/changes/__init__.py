"""Changes as values, which describe, make and undo themselves."""
