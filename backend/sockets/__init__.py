"""Sockets: who is connected, why nobody is, and a frame's way to a client. Knows no WhatsApp."""
