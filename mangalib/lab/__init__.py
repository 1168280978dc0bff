"""What notebooks and jobs see: a service to talk to, tables, pictures, and headless runs."""
