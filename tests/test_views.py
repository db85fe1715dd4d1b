"""SwapViews: views of one image and their labels, which share no memory."""

from __future__ import annotations

import torch
from helpers.images import as_kind, hot_quarter, pixels, scene
from torchvision import tv_tensors
from torchvision.transforms import v2

from cutswap_transforms import SaliencySwap, SwapViews


def test_views_share_no_memory_where_p_missed():
    for image in (scene() / 255, tv_tensors.Image(scene()), as_kind("PIL", scene())):
        first, second = SwapViews(SaliencySwap(hot_quarter, p=0.0))(image)
        assert first is not second and type(first) is type(second) and torch.equal(pixels(first), pixels(second))
        if isinstance(first, torch.Tensor):
            assert first.data_ptr() != second.data_ptr()
    wrapped = SwapViews(v2.Compose([v2.ToImage(), SaliencySwap(hot_quarter, p=0.0)]))(scene())
    assert wrapped[0].data_ptr() != wrapped[1].data_ptr()


def test_views_and_collate_label_by_view():
    views = v2.Compose([SwapViews(SaliencySwap(hot_quarter), lambda x: x), v2.ToDtype(torch.float32, scale=True)])
    image = scene()
    original, negative, same = views(image)
    assert all(isinstance(v, tv_tensors.Image) and v.dtype == torch.float32 for v in (original, negative, same))
    assert torch.equal(original, same) and not torch.equal(original, negative)
    for batch in ([views(scene(seed=i)) for i in range(4)], [(views(scene(seed=i)), i) for i in range(4)]):
        images, labels = SwapViews.collate(batch)
        assert images.shape == (12, 3, 40, 33) and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert torch.equal(images[1], images[9]) and type(images) is torch.Tensor
