"""What is asked next, learned from session logs."""
