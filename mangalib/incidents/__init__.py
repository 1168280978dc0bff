"""What a verdict sets off: incidents, pages, rollback."""
