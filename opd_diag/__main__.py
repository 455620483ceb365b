"""`python -m opd_diag` is `opd-diag`."""

from opd_diag.cli import main

if __name__ == "__main__":
    main()
