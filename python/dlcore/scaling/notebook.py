"""How results of a study show themselves in a notebook; plain tables in the notebook's own style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dlcore.scaling.estimates import Estimate


def table_html(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A small table, every text escaped.

    Parameters
    ----------
    caption : str
        Above it.
    head : sequence of str
        The columns.
    rows : iterable of sequence of str
        The cells.

    Returns
    -------
    str
    """
    top = "".join(f"<th scope='col'>{escape(text)}</th>" for text in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return (
        f"<table><caption style='text-align:left'>{escape(caption)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    )


def interval(found: Estimate) -> str:
    """The ends of an estimate's interval as text."""
    if found.low is None or found.high is None:
        return "one seed, no interval"
    return f"{found.low:.3g} to {found.high:.3g}"
