"""What is different with `ROUNDTRIP_STORE=postgresql://…`: `app.py` imports it only then, and nothing else does."""
