"""WhatsApp drivers, side by side: `base` is the protocol, each package beside it one driver."""
