"""The processes of a run, its devices, its signals, and what it says on the console."""
