"""Who scores the parts of a run: this process, several processes, or a Ray cluster."""
