"""The unlabeled pool: its shards, and what it must not hold."""
