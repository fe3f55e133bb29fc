"""Who starts the processes: this machine or Slurm; and what a launched run is doing."""
