"""The frame of a page in one file that needs nothing else."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Should something ever slip through unescaped, a browser still runs and loads nothing."""


def page_of(title: str, style: str, body: str) -> str:
    """The document. `title` and `body` are HTML: what others wrote in them is escaped already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )
