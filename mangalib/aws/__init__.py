"""AWS over our own HTTP/1.1: connections, signatures, Bedrock, the management API; DynamoDB by boto3."""
