"""The style sheet of the report's page: light, dark, on a phone and in print."""

from __future__ import annotations

from dlcore.scaling.drawing import COLORS, FONT


def style_sheet(root: str = "") -> str:
    """The page's style sheet; below ``root`` only where the report is a part of another page."""
    top = root or ":root"
    inner = f"{root} " if root else ""
    page_rules = (
        ""
        if root
        else "body{margin:0 auto;max-width:68rem;padding:1.5rem 1rem 3rem;background:var(--paper);}"
    )
    light, dark = COLORS["light"], COLORS["dark"]
    return f"""{top}{{{light}--quiet:#555c66;--card:#f3f5f8;--accent:#0063a6;{FONT}
color:var(--ink);background:var(--paper);font:1rem/1.5 var(--font);}}
@media (prefers-color-scheme:dark){{{top}{{{dark}--quiet:#a6adb8;--card:#1e2329;
--accent:#62b5f2;}}}}
{page_rules}
{inner}.kicker{{margin:0;color:var(--quiet);font-size:.9rem;}}
{inner}h1{{margin:.1rem 0 .6rem;font-size:1.6rem;line-height:1.25;}}
{inner}h2{{margin:0 0 .4rem;font-size:1.1rem;line-height:1.3;}}
{inner}.answer{{margin:0 0 1.2rem;padding-left:.9rem;border-left:.25rem solid var(--accent);
font-size:1.15rem;max-width:56rem;overflow-wrap:anywhere;}}
{inner}.ahead{{margin:-.7rem 0 1.2rem;padding-left:1.15rem;max-width:56rem;}}
{inner}.notice{{padding:.6rem .9rem;border:1px solid var(--series-1);border-radius:.4rem;}}
{inner}.cards{{display:grid;gap:.8rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr));margin:0 0 1.6rem;}}
{inner}.card{{background:var(--card);border-radius:.5rem;padding:.8rem .9rem;break-inside:avoid;}}
{inner}.card p{{margin:0;overflow-wrap:anywhere;}}
{inner}.what,{inner}.detail{{color:var(--quiet);font-size:.88rem;}}
{inner}.word{{font-size:1.15rem;font-weight:600;}}
{inner}.figures{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));
gap:1.6rem;align-items:start;}}
{inner}figure{{margin:0;break-inside:avoid;}}
{inner}figure svg{{display:block;width:100%;height:auto;}}
{inner}figcaption{{color:var(--quiet);font-size:.92rem;margin-top:.4rem;}}
{inner}section{{margin-top:1.8rem;}}
{inner}.scroll{{overflow-x:auto;}}
{inner}table{{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;}}
{inner}th,{inner}td{{padding:.3rem .6rem;text-align:right;white-space:nowrap;
border-bottom:1px solid var(--faint);}}
{inner}th:first-child{{text-align:left;}}
{inner}tbody th{{font-weight:500;position:sticky;left:0;background:var(--paper);}}
{inner}table.wrap td:last-child{{white-space:normal;min-width:14rem;text-align:left;}}
{inner}tr.best th,{inner}tr.best td{{font-weight:700;}}
{inner}li{{margin-bottom:.35rem;overflow-wrap:anywhere;}}
{inner}ul{{padding-left:1.2rem;}}
@media print{{{top}{{{light}--ink:#000;--quiet:#333;--faint:#bbb;--paper:#fff;--card:#fff;
--accent:#0063a6;}}{inner}.card{{border:1px solid #bbb;}}
{top}{{font-size:.8rem;}}{inner}.cards{{grid-template-columns:repeat(3,1fr);}}
{inner}.figures{{grid-template-columns:repeat(2,1fr);gap:1rem;}}{inner}table{{font-size:.7rem;}}
{inner}th,{inner}td{{padding:.15rem .3rem;white-space:normal;}}{inner}.scroll{{overflow:visible;}}}}
"""
