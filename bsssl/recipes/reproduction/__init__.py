"""The tables and figures of the paper on data of one's own: what is varied, and how it is judged."""
