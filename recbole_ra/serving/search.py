"""Items by what people type of their titles or tokens."""

from __future__ import annotations

from recbole_ra.inference.tokens import Items


class Search:
    """Finds items whose title holds a text or whose token starts so, whatever the case; items do not change.

    Parameters
    ----------
    items : Items
    """

    def __init__(self, items: Items) -> None:
        names = [str(name) for name in items.names[1:]]
        titles = [None] * len(names) if items.titles is None else list(items.titles[1:])
        self._all = [
            (name.casefold(), (title or "").casefold(), {"item": name, **({"title": title} if title else {})})
            for name, title in zip(names, titles, strict=True)
        ]

    def find(self, text: str, k: int) -> list[dict[str, str]]:
        """Return at most ``k``: the token or title itself, titles that start so, words that do, others."""
        wanted = text.strip().casefold()
        if not wanted:
            return []
        ranked: list[tuple[int, int]] = []
        for place, (name, title, _) in enumerate(self._all):
            if wanted in (name, title):
                ranked.append((0, place))
            elif title.startswith(wanted):
                ranked.append((1, place))
            elif f" {wanted}" in title:
                ranked.append((2, place))
            elif wanted in title or name.startswith(wanted):
                ranked.append((3, place))
        return [self._all[place][2] for _, place in sorted(ranked)[:k]]
