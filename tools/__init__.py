"""What builds the project's own data files; nothing here is installed or shipped."""
