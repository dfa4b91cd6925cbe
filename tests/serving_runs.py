"""What the servers of tests serve."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
EVIL = "<script>document.title = 'owned'</script> & <b>"
"""Title of the item ``i1``."""
