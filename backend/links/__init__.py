"""Links: one WhatsApp account each, its state machine and the drivers that move it. Knows no socket."""
