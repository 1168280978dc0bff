"""Tables for reading."""
