"""For developers: sockets, links and events as JSON and as pages, and the fault switches."""
