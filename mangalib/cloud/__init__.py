"""The laboratory on AWS: its stack as a template, what an operator watches, and a check of what is missing in an account."""
