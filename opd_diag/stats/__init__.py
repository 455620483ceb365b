"""Numbers in, numbers out: intervals, change points, and what else knows no tokens or tables."""
