"""Tables show every number that they are given."""

from __future__ import annotations

from rich.table import Table

from recbole_ra.report.tables import metrics_table, render


def cells(text: str) -> list[list[str]]:
    """Rows of a rendered table, without its frame."""
    return [line.replace("┃", "│").strip("│ ").split("│") for line in text.splitlines() if line[0] in "│┃"]


def test_protocols_are_rows_and_metrics_columns() -> None:
    result = {"masked": {"recall@5": 0.05, "ndcg@5": 0.03126}, "unmasked": {"recall@5": 0.1, "ndcg@5": 1}}
    rows = [[cell.strip() for cell in row] for row in cells(render(metrics_table(result)))]
    assert rows == [
        ["protocol", "recall@5", "ndcg@5"],
        ["unmasked", "0.1000", "1.0000"],
        ["masked", "0.0500", "0.0313"],
    ]


def test_missing_metric_is_a_dash_and_other_protocols_follow() -> None:
    rows = cells(render(metrics_table({"sampled": {"mrr": 0.5}, "masked": {"hit@1": 0.25}})))
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["protocol", "hit@1", "mrr"],
        ["masked", "0.2500", "–"],
        ["sampled", "–", "0.5000"],
    ]


def test_six_metrics_fit_in_a_hundred_plain_characters() -> None:
    values = {f"{metric}@{k}": 0.12345 for metric in ("recall", "ndcg") for k in (5, 10, 20)}
    text = render(metrics_table({"unmasked": values, "masked": values}))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("0.1235") + text.count("0.1234") == 12
    assert "\x1b" not in text


def test_many_metrics_are_rows() -> None:
    values = {f"{metric}@{k}": 0.12345 for metric in ("recall", "ndcg", "mrr", "hit") for k in (5, 10, 20)}
    rows = cells(render(metrics_table({"unmasked": values, "masked": {**values, "mrr@5": 0.5}})))
    assert [cell.strip() for cell in rows[0]] == ["metric", "unmasked", "masked"]
    assert [[cell.strip() for cell in row] for row in rows[1:]] == [
        [name, "0.1235", "0.5000" if name == "mrr@5" else "0.1235"] for name in values
    ]


def test_cells_are_shown_as_they_are() -> None:
    table = Table("title")
    titles = ["Alien [/uncut]", "[bold]x[/bold]", "a:smile:b", "[link=x]"]
    for title in titles:
        table.add_row(title)
    assert [cell.strip() for (cell,) in cells(render(table))] == ["title", *titles]
