"""Roundtrip: links WhatsApp accounts and proves that the frontend got every event."""
