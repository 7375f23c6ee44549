"""How many small faults in the core the tests would notice: `python -m tools.mutation`."""
