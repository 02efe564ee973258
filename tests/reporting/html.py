"""A reader of the report's page, and small helpers to compare its numbers."""

import math
from html.parser import HTMLParser

T95 = 2.776445
"""The two-sided 95% point of Student's t with 4 degrees of freedom."""


class Page(HTMLParser):
    """What a browser finds: tables by their rows, text, ids, and everything that refers to something."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.text, self.ids, self.references, self.tags = {}, "", [], [], []
        self.classes = {}
        self._row, self._cell, self._style = None, False, False
        self.feed(html)
        self.told = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster", "background", "cite"):
                self.references.append(value)
        if tag == "tr":
            self._row = dict(attributes).get("data-run")
            self.rows.setdefault(self._row, [])
            self.classes[self._row] = dict(attributes).get("class", "")
        elif tag == "td":
            self._cell = True
            self.rows[self._row].append("")
        elif tag == "br":
            self.text += " "
        self._style = tag == "style"

    def handle_endtag(self, tag):
        if tag in ("td", "th", "dt", "dd"):
            self.text += " "
        if tag == "td":
            self._cell = False
        self._style = False

    def handle_data(self, data):
        if not self._style:
            self.text += data
        if self._cell:
            self.rows[self._row][-1] += data


def page_of(made):
    """The page of a report."""
    return Page(made.page.read_text(encoding="utf-8"))


def mean(values):
    return sum(values) / len(values)


def error_of(values):
    return math.sqrt(sum((x - mean(values)) ** 2 for x in values) / (len(values) - 1) / len(values))


def points(text):
    """The number of a cell."""
    return float(text.replace("\N{MINUS SIGN}", "-").replace("±", ""))
