"""Metrics, traces, logs and redaction. `setup.start` starts them; no other part of the program is imported here."""
