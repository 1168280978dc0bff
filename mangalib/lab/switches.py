"""The ten optimisations at hand: switched by a new release, as an operator would, for a local stack or any other."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets

from mangalib.domain import OPTIMISATIONS, Release
from mangalib.lab.laboratory import Laboratory


def switch_off(lab: Laboratory, names: Sequence[str]) -> Release:
    """Make a release active in which exactly these are off; answers follow within ``release_refresh_s``.

    Raises ``ReleaseError`` naming one that does not exist, and listing those that do.
    """
    releases = lab.releases
    wanted = releases.get(releases.pointer().active).changed(
        f"off: {', '.join(names) or 'none'}", {}, {}, None, off=names, on=[n for n in OPTIMISATIONS if n not in names]
    )
    return releases.activate(releases.create(wanted).number, "switched in a notebook")


def switches(lab: Laboratory) -> ipywidgets.Widget:
    """A box to tick for each of the ten, for a notebook that is open in a browser."""
    releases = lab.releases
    active = releases.get(releases.pointer().active).optimisations
    boxes = {
        name: ipywidgets.Checkbox(value=getattr(active, name), description=name.replace("_", " "), indent=False)
        for name in OPTIMISATIONS
    }

    def follow(change: object) -> None:
        switch_off(lab, [name for name, box in boxes.items() if not box.value])

    for box in boxes.values():
        box.observe(follow, "value")
    return ipywidgets.GridBox(
        list(boxes.values()), layout=ipywidgets.Layout(grid_template_columns="repeat(auto-fit, minmax(190px, 1fr))")
    )
