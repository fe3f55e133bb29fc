"""What a sample is, where samples come from, and how they are read and transformed."""
