"""Studies that were run: how far each run is, its numbers beside the paper's, and the report."""
