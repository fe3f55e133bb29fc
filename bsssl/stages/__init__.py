"""The kinds of stages, a file each: what decides the result of one, what it reads and leaves, and its work."""
