"""The public contract as generated documents: OpenAPI and AsyncAPI."""
