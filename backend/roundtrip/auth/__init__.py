"""Authentication: tokens, the keys that verify them, and the API keys of services."""
