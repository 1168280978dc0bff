"""The chat in a browser: the element, the notebook widget around it, and its page."""
