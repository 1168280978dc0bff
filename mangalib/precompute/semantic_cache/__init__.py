"""How often the semantic cache answers, and how often wrongly."""
