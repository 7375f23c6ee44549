"""Limits: rates and quotas per caller, client addresses behind proxies, connections per listener."""
