"""Telemetry: metrics, traces, logs, and what may be in them. Knows no part of the program."""
