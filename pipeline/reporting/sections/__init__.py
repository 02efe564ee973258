"""The sections of the page, one module and one template each, in the order of the page.

A module has a function `context(inputs)`, which gives the variables of its template, or None to leave the section out.
"""

from pipeline.reporting.sections import (
    costs,
    curves,
    data,
    diagnostics,
    gates,
    guide,
    provenance,
    results,
    runs,
    scores,
    search,
    speed,
    subsets,
    sweeps,
    teachers,
)

SECTIONS = (
    results,
    guide,
    runs,
    speed,
    scores,
    curves,
    search,
    sweeps,
    gates,
    diagnostics,
    teachers,
    subsets,
    costs,
    data,
    provenance,
)

__all__ = ["SECTIONS"]
