"""The outbox in PostgreSQL. Imported only where `ROUNDTRIP_STORE` names one."""
