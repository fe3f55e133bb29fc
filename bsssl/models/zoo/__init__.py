"""The networks of the project, by modality."""
