"""plot.py: draws measured columns beside the paper's, as one SVG picture."""
from xml.sax.saxutils import escape

COLORS = ["#d6e2f0", "#b3c9e2", "#8cadd0", "#6690bb"]  # the paper's sizes
MEASURED, INK = "#d1603d", "#333333"
LEFT, BAR, GAP, HEIGHT, TOP, LABELS = 46, 11, 16, 180, 56, 110


def text(x, y, words, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(words)}</text>'


def bar(x, base, height, color, title):
    return f'<rect x="{x:.1f}" y="{base - height:.1f}" width="{BAR - 1}" height="{height:.1f}" fill="{color}">' \
           f"<title>{escape(title)}</title></rect>"


def panel(top, title, most, columns, sizes):
    """A table: groups of bars from 0 to `most`. columns: (name, value, error, the paper's numbers or None)."""
    base, parts = top + HEIGHT, [text(8, top - 14, title, ' font-weight="bold"')]
    for i in range(5):
        y = base - i * HEIGHT / 4
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + len(columns) * (5 * BAR + GAP)}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(text(LEFT - 5, y + 4, f"{i * most / 4:g}", ' text-anchor="end"'))
    for k, (name, value, error, numbers) in enumerate(columns):
        x = LEFT + GAP / 2 + k * (5 * BAR + GAP)
        for i, number in enumerate(numbers):
            if number is not None:
                parts.append(bar(x + (i + 1) * BAR, base, number / most * HEIGHT, COLORS[i], f"{name}, paper {sizes[i]}: {number:g}"))
        if value is not None:
            parts.append(bar(x, base, value / most * HEIGHT, MEASURED, f"{name}, measured: {value:.4g} +/- {error:.2g}"))
            low, high = (base - max(0, min(most, value + sign * error)) / most * HEIGHT for sign in (-1, 1))
            middle = x + (BAR - 1) / 2
            parts.append(f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{INK}"/>')
        at_x, at_y = x + 2.5 * BAR, base + 12
        parts.append(text(at_x, at_y, name, f' text-anchor="end" transform="rotate(-35 {at_x:.1f} {at_y:.1f})"'))
    return parts


def draw(title, tables, sizes):
    """tables: (title, largest value, columns) of each. Returns the SVG's text."""
    step = HEIGHT + TOP + LABELS
    width = max([LEFT + len(columns) * (5 * BAR + GAP) + 30 for _, _, columns in tables] + [460])
    parts = [text(8, 20, title, ' font-size="15"'), f'<rect x="8" y="30" width="10" height="10" fill="{MEASURED}"/>', text(22, 39, "measured")]
    for i, size in enumerate(sizes):
        parts += [f'<rect x="{100 + 80 * i}" y="30" width="10" height="10" fill="{COLORS[i]}"/>', text(114 + 80 * i, 39, f"paper {size}")]
    for i, table in enumerate(tables):
        parts += panel(TOP + 30 + i * step, *table, sizes)
    height = TOP + 30 + len(tables) * step
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" ' \
           f'font-family="sans-serif" font-size="11" fill="{INK}">\n<rect width="100%" height="100%" fill="white"/>\n' \
           + "\n".join(parts) + "\n</svg>\n"
