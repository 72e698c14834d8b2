"""Tasks, exact lengths, and the data set folder."""
