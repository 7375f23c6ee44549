"""The driver for real accounts: one worker process per account, which runs neonize and the Go library under it.

In this process: `driver`. In the worker: `worker` (its start), `footprint`, `library`, `session`, `library_events`.
In both: `pipe`, the protocol between them.
"""
