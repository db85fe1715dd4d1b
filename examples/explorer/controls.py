"""The controls of the swap and of its images, on the left side of the page."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import gradio as gr

from .drops import drop_area
from .scripts import NOTICE
from .settings import CHOSEN, LEVELS, RANGES, REGIONS, SIZES, Settings, clusterings_at_hand, nets_at_hand
from .uploads import Uploads
from .visitor import MAX_IMAGES, SAMPLES

FIRST = SAMPLES[4]
NETS = "Torchvision's nets are listed when their weights have been downloaded. Random weights show what the net has learned."
ROI_LABEL = "Mask for all images, black = outside"
LEVELS_INFO = "Maps of the net, from fine (0) to coarse. A swap on each, which share the area, or one on a random level."


class ImageControls(NamedTuple):
    """Images are dropped, chosen and removed; `own` is hidden while the visitor has none."""

    drop: gr.File
    notice: gr.HTML
    image: gr.Dropdown
    own: gr.Column
    remove: gr.Button
    clear: gr.Button
    mosaic: gr.Button


def image_controls(uploads: Uploads) -> ImageControls:
    with gr.Column(elem_id="images"):
        drop = drop_area(uploads, label=f"Your images, {MAX_IMAGES} at most", file_count="multiple", elem_id="drop")
        notice = gr.HTML(elem_id="notice", js_on_load=NOTICE)
        image = gr.Dropdown(list(SAMPLES), value=FIRST, label="Image", elem_id="image", filterable=False)
        with gr.Column(visible=False, elem_id="own") as own:
            mosaic = gr.Button("One negative of each of my images", size="sm", elem_id="show-mosaic")
            with gr.Row():
                remove = gr.Button("Remove this image", size="sm", elem_id="remove-image", min_width=100)
                clear = gr.Button("Remove all", size="sm", elem_id="clear", min_width=100)
    return ImageControls(drop, notice, image, own, remove, clear, mosaic)


def region_controls(uploads: Uploads) -> tuple[gr.File, gr.Button]:
    with gr.Accordion("Region of interest", open=False, elem_id="interest"):
        mask = drop_area(uploads, label=ROI_LABEL, elem_id="roi")
        remove = gr.Button("Remove it", visible=False, size="sm", elem_id="remove")
    return mask, remove


def setting_controls() -> tuple[dict[str, gr.components.Component], dict[str, gr.blocks.Block]]:
    """One control per field of `Settings`, in order, and blocks that are visible only at one value of another control."""
    made: dict[str, gr.components.Component] = {}

    def add(kind: Any, name: str, label: str, *given: Any, **options: Any) -> None:
        value = getattr(Settings, name)
        value = list(value) if isinstance(value, tuple) else value
        made[name] = kind(*given, value=value, label=label, elem_id=name, **options)

    def slide(name: str, label: str, **options: Any) -> None:
        low, high, step = RANGES[name]
        add(gr.Slider, name, label, low, high, step=step, **options)

    with gr.Column(elem_id="settings"):
        slide("seed", "Seed")
        add(gr.Dropdown, "size", "Resize: shorter side in pixels", list(SIZES), filterable=False)
        with gr.Accordion("Patches", open=False):
            add(gr.Radio, "levels", "Levels to swap on", list(LEVELS), info=LEVELS_INFO)
            add(gr.CheckboxGroup, "chosen", "Chosen levels", [0, 1, 2, 3], visible=False)
            slide("smallest", "Smallest, % of image")
            slide("largest", "Largest, % of image")
            slide("flattest", "Widest shape, height / width")
            slide("tallest", "Tallest shape, height / width")
        with gr.Accordion("Saliency and clusters", open=False):
            add(gr.Dropdown, "net", "Saliency net", list(nets_at_hand()), info=NETS, filterable=False)
            slide("grid", "Grid: cells along each side")
            add(
                gr.Radio,
                "region",
                "Region",
                list(REGIONS),
                info="All salient clusters, or the top one alone.",
            )
            add(gr.Radio, "clustering", "Clustering", list(clusterings_at_hand()))
            with gr.Accordion("Options of kmeans", open=False) as options:
                slide("n_clusters", "Clusters")
                slide(
                    "saliency_weight",
                    "Weight of saliency",
                    info="Beside color: more follows the map, less follows the colors.",
                )
                add(gr.Checkbox, "color", "Cluster by color, too")
                slide("n_iter", "Rounds of k-means, at most")
    return {field.name: made[field.name] for field in fields(Settings)}, {"kmeans": options, CHOSEN: made["chosen"]}
