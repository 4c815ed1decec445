"""Layer 6: kdhtctl. Commands fetch plain data, `report` draws it."""
