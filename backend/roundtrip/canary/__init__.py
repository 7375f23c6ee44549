"""The canary: an event that the node sends to itself through its public address, as a page would get it."""
