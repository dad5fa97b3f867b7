"""Making the changes of a plan, with rollback; bringing a host up to date."""
