"""The configuration: its schema, the values in it, where files lie, and what the daemon makes of it (`Settings`)."""
