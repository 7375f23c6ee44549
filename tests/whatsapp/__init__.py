"""A stand-in for WhatsApp's endpoint on loopback, for the real library. It exists in tests only."""
