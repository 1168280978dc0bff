"""Stand-ins for the cloud, one file a service, and the stack that starts them together.

The product never imports this package: it reaches these services over sockets, as it reaches the cloud.
"""
