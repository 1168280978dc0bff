"""How one answer is generated ahead of its question."""
