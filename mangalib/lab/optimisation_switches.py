"""Switches for the ten optimisations: each change activates a new release, as an operator would."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets

from mangalib.domain import OPTIMISATIONS, Release
from mangalib.lab.laboratory import Laboratory


def switch_off(lab: Laboratory, names: Sequence[str]) -> Release:
    """Activate a release in which exactly these optimisations are off; it takes effect within ``release_refresh_s``.

    Raises ``ReleaseError`` for an unknown name; the message lists the known ones.
    """
    releases = lab.releases
    wanted = releases.get(releases.pointer().active).changed(
        f"off: {', '.join(names) or 'none'}", {}, {}, None, off=names, on=[n for n in OPTIMISATIONS if n not in names]
    )
    return releases.activate(releases.create(wanted).number, "switched in a notebook")


def switches(lab: Laboratory) -> ipywidgets.Widget:
    """A check box for each optimisation, for a notebook that is open in a browser."""
    releases = lab.releases
    active = releases.get(releases.pointer().active).optimisations
    boxes = {
        name: ipywidgets.Checkbox(value=getattr(active, name), description=name.replace("_", " "), indent=False)
        for name in OPTIMISATIONS
    }

    def apply(change: object) -> None:
        switch_off(lab, [name for name, box in boxes.items() if not box.value])

    for box in boxes.values():
        box.observe(apply, "value")
    return ipywidgets.GridBox(
        list(boxes.values()), layout=ipywidgets.Layout(grid_template_columns="repeat(auto-fit, minmax(190px, 1fr))")
    )
