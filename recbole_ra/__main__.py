"""``python -m recbole_ra``."""

from recbole_ra.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
