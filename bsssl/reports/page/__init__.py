"""The report of a run: one page of HTML with all that it needs inside, for everybody who was not there."""

NAME = "report.html"
