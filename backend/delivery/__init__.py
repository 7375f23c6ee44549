"""Delivery: each event is stored, then emitted, until a socket confirms it or its life ends."""
