"""The processes of a run, its devices, and what it says on the console."""
