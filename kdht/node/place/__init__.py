"""Where a node stands in the ID space: who owns and keeps how much, and where one more would serve best."""
