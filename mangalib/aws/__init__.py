"""AWS over our own HTTP/1.1: connections, signatures, Bedrock, the management API; DynamoDB by boto3."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
