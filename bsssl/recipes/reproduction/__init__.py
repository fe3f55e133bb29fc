"""The tables and figures of the paper on other data: what is varied, and how differences are judged."""
