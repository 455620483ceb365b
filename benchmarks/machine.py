"""What a figure was measured with: date, versions, cores and load."""

import os
import platform
from datetime import date

import numpy as np
import polars as pl


def machine() -> str:
    """Return date, versions, cores, and the load of the last minute before."""
    return (
        f"{date.today()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"polars {pl.__version__}, {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}"
    )
