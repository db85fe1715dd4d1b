"""What every transform and every option promises: inputs untouched, kinds kept, a batch equals a loop, twins, structure."""

from __future__ import annotations

import copy
import pickle
from collections import UserDict

import numpy as np
import PIL.Image
import pytest
import torch
from helpers.images import as_kind, hot_quarter, pil, pixels, scene, sorted_pixels
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from cutswap_transforms import KMeans, LayerCAMExtractor, RegionCache, SaliencySwap, SwapViews, functional
from cutswap_transforms.swap import _gathered

MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINDS = ["PIL", "Image", "tensor"]
SWAPS = {
    "default": {},
    "callable": {"saliency": hot_quarter},
    "resnet18": {"saliency": "resnet18-random", "p": 0.9},
    "sklearn": {"clustering": "sklearn", "levels": 1},
    "opencv": {"clustering": "opencv", "levels": -1},
    "kmeans": {"clustering": KMeans(4, color=False, saliency_weight=1.0), "grid": 9},
    "all levels": {"levels": "all", "scale": (0.002, 0.01), "p": 0.8},
    "two levels": {"levels": (2, 0), "ratio": (1.0, 1.0)},
    "no cache": {"cache": None, "p": 0.6, "grid": 32},
    "folder": {"cache": "folder"},
    "normalized": {"normalized": MEAN_STD},
    "mask": {"return_mask": True, "p": 0.7},
}
EXTRACTORS = {
    "tiny": {},
    "tiny, bf16": {"precision": "bf16", "layers": ["stage2"]},
    "tiny, target": {"target": 3, "mean_std": None},
}


@pytest.fixture(params=[*SWAPS, *EXTRACTORS])
def transform(request, tmp_path):
    if request.param in EXTRACTORS:
        return LayerCAMExtractor(**EXTRACTORS[request.param])
    arguments = dict(SWAPS[request.param])
    if arguments.get("saliency") == "resnet18-random":
        arguments["saliency"] = LayerCAMExtractor("resnet18", weights=None, input_size=64)
    if arguments.get("cache") == "folder":
        arguments["cache"] = RegionCache(tmp_path / "c")
    return SaliencySwap(**arguments)


def image_for(transform, kind, seed=0, channels=3):
    image = scene(channels=channels, seed=seed)
    if getattr(transform, "normalized", None):
        image = v2.functional.normalize(image / 255, *MEAN_STD)
    return as_kind("Image" if kind == "PIL" and image.is_floating_point() else kind, image)


def seeded(transform, sample, seed=5):
    torch.manual_seed(seed)
    return transform(sample)


def equal(a, b):
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and torch.equal(pixels(a), pixels(b))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_untouched_kinds_kept_and_twins_alike(transform, kind):
    image = image_for(transform, kind)
    before = pixels(image).clone()
    out = seeded(transform, image)
    assert torch.equal(pixels(image), before), "the input was changed"
    negative = out[0] if isinstance(out, tuple) else out
    if isinstance(transform, LayerCAMExtractor):
        assert type(out) is torch.Tensor and out.dtype == torch.float32 and out.shape == (len(transform.layers), 40, 33)
        assert out.min() == 0 and out.max() == 1
    else:
        assert type(negative) is type(image) and torch.equal(sorted_pixels(negative), sorted_pixels(image))
        kept = "mode" if kind == "PIL" and isinstance(image, PIL.Image.Image) else "dtype"
        assert getattr(negative, kept) == getattr(image, kept)
    for twin in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform), transform):
        assert equal(seeded(twin, image), out)
    with torch.inference_mode():
        assert equal(seeded(transform, image), out)


def test_a_batch_equals_a_loop_over_singles(transform):
    batch = torch.stack([image_for(transform, "tensor", seed=i) for i in range(6)])
    together = seeded(transform, batch)
    torch.manual_seed(5)
    alone = [transform(image) for image in batch]
    if isinstance(together, tuple):
        masks = torch.stack([mask for _, mask in alone])
        assert torch.equal(together[1], masks) and together[1].shape == (6, 1, 40, 33)
        together, alone = together[0], [image for image, _ in alone]
    assert together.shape[0] == 6 and together.shape[2:] == (40, 33)
    if isinstance(transform, LayerCAMExtractor):  # convolutions round otherwise in batches of another size
        torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=0.05 if transform.precision == "bf16" else 1e-3)
    else:
        assert torch.equal(together, torch.stack(alone))
    for empty in (batch[:0], batch[:0, :, :1, :1]):
        out = transform(empty)
        out = out[0] if isinstance(out, tuple) else out
        assert out.shape[0] == 0 and (isinstance(transform, LayerCAMExtractor) or out is empty)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("structure", [dict, list, tuple])
@pytest.mark.parametrize("make", [SaliencySwap, LayerCAMExtractor])
def test_the_structure_of_a_sample_is_kept(make, structure, kind, channels):
    image = as_kind(kind, scene(channels=channels))
    others = {"path": "a/b.png", "label": 3, "score": 0.5, "none": None, "flag": True, "array": np.arange(4), "x": object()}
    if kind != "tensor":
        others["target"] = torch.rand(5)
    leaves = {"image": image, **others}
    sample = leaves if structure is dict else structure(leaves.values())
    out = make()(sample)
    assert type(out) is structure
    found = out if structure is dict else dict(zip(leaves, out, strict=True))
    assert list(found) == list(leaves)
    assert all(found[name] is leaf for name, leaf in others.items())
    assert pixels(found["image"]).shape[-2:] == (40, 33)
    assert make is LayerCAMExtractor or not torch.equal(pixels(found["image"]), pixels(image))


@pytest.mark.parametrize("kind", KINDS)
def test_both_generations_of_compose(kind):
    image = as_kind(kind, scene(70, 64))
    steps = [v1.ToTensor()] if kind == "PIL" else []
    out = v1.Compose([v1.Resize(48), SaliencySwap(), v1.RandomHorizontalFlip(), *steps])(image)
    assert tuple(out.shape) == (3, 52, 48)
    out, label = v2.Compose([v2.Resize(48), SaliencySwap(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(image, 7)
    assert label == 7 and out.dtype == torch.float32 and tuple(out.shape) == (3, 52, 48)


@pytest.mark.parametrize("back_end", ["eager", "aot_eager"])
@pytest.mark.parametrize("cache", [None, "memory"])
def test_a_compiled_model_may_hold_a_swap(back_end, cache):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.swap, self.head = SaliencySwap(cache=cache), torch.nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.head(self.swap(x / 1.0)).mean()

    model, images = Model(), torch.stack([scene(seed=i) for i in range(3)]) / 255
    compiled = torch.compile(model, backend=back_end)
    torch.testing.assert_close(seeded(compiled, images), seeded(model, images))
    generate = SaliencySwap(cache=cache).as_anomaly_generator()
    assert all(map(equal, seeded(torch.compile(generate, backend=back_end), images), seeded(generate, images)))


BOTH = pytest.mark.parametrize("transform", [SaliencySwap(), LayerCAMExtractor()], ids=["swap", "maps"])


@BOTH
def test_narrow_images_of_many_channels_are_images(transform):
    strip = torch.rand(31, 40, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(
        UserWarning, match=r"shape \[31, 40, 3\] is read as 31 channels of 40 x 3 pixels; if it is \[H, W, C\], use"
    ):
        warned = seeded(transform, strip)
    closest = strip.movedim(0, -1).contiguous().movedim(-1, 0)  # channels lie closest in memory: no question, no warning
    assert torch.equal(seeded(transform, closest), warned)


class Tagged(torch.Tensor):
    """A subclass of Tensor whose own `__torch_function__` hands an attribute on."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(out, cls):
            out.tag = next((x.tag for x in args if hasattr(x, "tag")), None)
        return out


class Meta(torch.Tensor):
    pass


class OwnImage(tv_tensors.Image):
    pass


SUBCLASSES = [torch.Tensor, Meta, Tagged, tv_tensors.Image, OwnImage, torch.nn.Parameter]


def of_class(kind, image):
    found = torch.nn.Parameter(image) if kind is torch.nn.Parameter else image.as_subclass(kind)
    found.tag = "a"
    return found


@pytest.mark.parametrize("kind", SUBCLASSES)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_subclasses_of_tensor_come_out_as_of_torchvisions_kernels(kind, shape):
    image = of_class(kind, torch.rand(*shape, 3, 20, 22))
    pairs = torch.tensor([[[0, 0, 0, 9, 6, 8, 5]]]).expand(*(shape or (1,)), -1, -1)
    expected = v2.functional.horizontal_flip(image)
    for p in (0.0, 1.0):
        swap = SaliencySwap(hot_quarter, p=p)
        out = swap(image)
        assert type(out) is type(expected if p else image) and (out is image) == (p == 0)
        assert getattr(out, "tag", None) == getattr(expected if p else image, "tag", None)
        assert out.requires_grad == image.requires_grad
        assert torch.equal(pixels(seeded(swap, image)), seeded(swap, pixels(image)))
        assert type(swap.as_anomaly_generator()(image)[0]) is type(out)
    out = functional.swap_patches(image, pairs)
    assert type(out) is type(expected)
    if not isinstance(image, tv_tensors.TVTensor):  # these are unwrapped before
        assert type(_gathered(image if shape else image[None], pairs)) is type(expected)
    assert type(pickle.loads(pickle.dumps(out.detach()))) is type(out.detach())


def test_a_missed_p_mixes_no_types_in_a_stream():
    swap = SaliencySwap(hot_quarter, p=0.5)
    torch.manual_seed(0)
    stream = [swap(of_class(Meta, scene(seed=i))) for i in range(12)]
    assert {type(image) for image in stream} == {Meta}
    assert len({torch.equal(pixels(image), scene(seed=i)) for i, image in enumerate(stream)}) == 2, "p missed, p hit"


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (torch.Tensor, tv_tensors.Image),
        (tv_tensors.Image, tv_tensors.Image),
        (OwnImage, OwnImage),
        (Meta, Meta),
        (Tagged, Tagged),
        (torch.nn.Parameter, tv_tensors.Image),
    ],
)
def test_views_are_of_one_type(kind, expected, p):
    first, second, flipped = SwapViews(SaliencySwap(hot_quarter, p=p), lambda x: x.flip(-1))(
        of_class(kind, torch.rand(3, 20, 22))
    )
    assert type(first) is type(second) is expected
    assert type(flipped) is (expected if kind is not OwnImage else tv_tensors.Image), "a flip of tv_tensors is a plain tensor"
    assert first.data_ptr() != second.data_ptr()


VIEWS = [PIL.Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]


@pytest.mark.parametrize(
    "batch",
    [
        {"image": VIEWS, "label": [0, 1]},
        {"image": tuple(VIEWS), "label": torch.tensor([0, 1]), "split": "train"},
        {"image": VIEWS, "label": np.array([0, 1]), "mask": [tv_tensors.Mask(torch.zeros(1, 30, 40, dtype=torch.uint8))] * 2},
        {"image": [torch.rand(3, 30, 40)] * 2, "name": ["a", "b"]},
    ],
)
def test_a_batch_given_as_a_dict_of_lists_is_told(batch):
    with pytest.warns(UserWarning, match=r"is a dict of lists, so its 2 images get the same swap, .*HuggingFaceSwap\(swap\)"):
        SaliencySwap()(batch)


@pytest.mark.parametrize(
    "sample",
    [
        {"views": VIEWS, "label": 1},
        {"views": VIEWS, "masks": [tv_tensors.Mask(torch.zeros(1, 30, 40, dtype=torch.uint8))] * 2, "name": "part"},
        {"views": VIEWS, "boxes": [1, 2, 3, 4]},
        {"image": VIEWS[:1], "label": [0]},
    ],
)
def test_several_views_of_one_sample_are_taken_without_a_word(sample):
    SaliencySwap()(sample)
    SaliencySwap(p=0.0)({"image": VIEWS, "label": [0, 1]})  # nothing is swapped, so nothing is wrong


def test_the_remedy_for_16_bits_in_signed_integers_loses_no_value():
    with pytest.raises(TypeError, match=r"image.view\(torch.uint16\)"):
        SaliencySwap()(SIXTEEN.to(torch.int16))
    assert torch.equal(SIXTEEN.to(torch.int16).view(torch.uint16).to(torch.int64), SIXTEEN)
    assert SaliencySwap()(SIXTEEN.to(torch.int16).view(torch.uint16)).dtype == torch.uint16


@BOTH
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch's own, of these kinds of tensors
def test_quantized_and_nested_tensors_are_refused_with_a_remedy(transform):
    with pytest.raises(TypeError, match=r"got torch.quint8; use image.dequantize\(\)"):
        transform(torch.quantize_per_tensor(IMAGE, 1 / 255, 0, torch.quint8))
    with pytest.raises(TypeError, match="`image` must be a dense tensor, got a nested tensor; use images of one size"):
        transform(torch.nested.nested_tensor([IMAGE, IMAGE]))


@BOTH
def test_an_image_with_the_negative_bit_is_an_image(transform):
    image = torch.rand(3, 20, 22, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seeded(transform, torch._neg_view(-image)), seeded(transform, image))


# ---- errors -------------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(3, 8, 8)
BOXES = tv_tensors.BoundingBoxes([[0, 0, 2, 2]], format="XYXY", canvas_size=(8, 8))
POINTS = tv_tensors.KeyPoints([[1.0, 2.0]], canvas_size=(8, 8))
SIXTEEN = torch.arange(0, 64000, 1000).reshape(1, 8, 8).repeat(3, 1, 1)  # a 16-bit image, as integers
UNEQUAL = {"a": tv_tensors.Image(IMAGE), "b": tv_tensors.Image(torch.rand(3, 8, 9))}
SHAPE = r"`image` must have shape \[C, H, W\] or \[N, C, H, W\], got "
DTYPE = r"`image` must be uint8, uint16 or floating point, got "
MODE = r"`image` must be of a PIL mode with 8 or 16 bits, got mode "
SAMPLES = [
    (torch.rand(40, 33), ValueError, SHAPE + r"\[40, 33\]"),
    (torch.rand(1, 2, 3, 4, 5), ValueError, SHAPE + r"\[1, 2, 3, 4, 5\]"),
    (
        torch.zeros(40, 33, 3, dtype=torch.uint8),
        ValueError,
        SHAPE
        + r"\[40, 33, 3\], which looks like \[H, W, C\]; use image.movedim\(-1, -3\), or, if it has 40 channels, a floating",
    ),
    (IMAGE.to_sparse(), TypeError, r"`image` must be a dense tensor, got torch.sparse_coo; use image.to_dense\(\)"),
    (IMAGE.to_mkldnn(), TypeError, r"`image` must be a dense tensor, got torch._mkldnn; use image.to_dense\(\)"),
    (IMAGE.to(torch.float8_e4m3fn), TypeError, DTYPE + r"torch.float8_e4m3fn; use image.to\(torch.float16\)"),
    (torch.complex(IMAGE, IMAGE), TypeError, DTYPE + "torch.complex64; use its real part"),
    (torch.rand(2, 40, 33), ValueError, r"`image` must have 1 channel or at least 3, got 2"),
    (torch.full((3, 8, 8), torch.nan), ValueError, r"`image` must have finite pixels, got values from nan"),
    (torch.full((3, 8, 8), 255.0), ValueError, r"must be in \[0, 1\], got values from 255 to 255; .*divide 0..255 by 255"),
    (torch.zeros(3, 8, 8, dtype=torch.int64), TypeError, DTYPE + r"torch.int64; values 0..255 fit image.to\(torch.uint8\)"),
    (torch.zeros(3, 8, 8, dtype=torch.bool), TypeError, DTYPE + r"torch.bool; use image.float\(\)"),
    (SIXTEEN.to(torch.int32), TypeError, DTYPE + r"torch.int32; values 0..65535 fit image.to\(torch.uint16\)$"),
    (SIXTEEN.to(torch.int64) * 2, TypeError, DTYPE + r"torch.int64; scale its values from 0 to 126000 to floating point in"),
    (
        SIXTEEN.to(torch.int16),
        TypeError,
        DTYPE + r"torch.int16; .*, if 16 bits were read as signed, use image.view\(torch.uint16\)",
    ),
    (SIXTEEN.to(torch.int16) // 2, TypeError, DTYPE + "torch.int16; scale its values from -"),
    ((torch.tensor(3), IMAGE), ValueError, SHAPE + r"\[\]; the first plain tensor of a sample is its image: put the image"),
    ({"y": torch.tensor([0, 1]), "x": IMAGE[None]}, ValueError, SHAPE + r"\[2\]; the first plain tensor of a sample is its"),
    (torch.rand(40, 33), ValueError, SHAPE + r"\[40, 33\]; a gray image is image\[None\]"),
    (
        tv_tensors.Image(torch.rand(2, 40, 33)),
        ValueError,
        r"got 2 in .*; for gray and alpha, use image\[..., :1, :, :\]",
    ),
    (PIL.Image.new("F", (8, 8)), TypeError, MODE + r"'F'; make it 'I;16' or a float tensor in \[0, 1\]"),
    (PIL.Image.new("I", (8, 8)), TypeError, MODE + "'I'; make it 'I;16'"),
    (PIL.Image.new("1", (8, 8)), TypeError, MODE + r"'1'; use image.convert\('L'\)"),
    (
        np.zeros((8, 8, 3), np.uint8),
        TypeError,
        r"got numpy.ndarray of shape \(8, 8, 3\); put v2.ToImage\(\) .* OpenCV reads BGR",
    ),
    ((IMAGE, np.zeros((8, 8))), TypeError, r"`image` must be a PIL image or a tensor, got numpy.ndarray"),
    ({"label": 3}, TypeError, r"`sample` must hold an image .* got int"),
    (UserDict(image=IMAGE), TypeError, r"must hold its images in a dict, a list or a tuple, got UserDict; pass dict\(sample\)"),
    ((IMAGE, UserDict(boxes=BOXES)), TypeError, "must hold its images in a dict, a list or a tuple, got UserDict"),
    (UserDict(label=3), TypeError, r"`sample` must hold an image .* got UserDict; pass dict\(sample\)"),
    (
        UNEQUAL,
        ValueError,
        r"must hold images of one size, got \(H, W, N\) \[\(8, 8, 1\), \(8, 9, 1\)\]; transform them one by one",
    ),
    ((IMAGE, tv_tensors.Mask(torch.zeros(1, 4, 8))), ValueError, r"hold masks of the image's size \(8, 8\), got \[1, 4, 8\]"),
    (
        (IMAGE[None].repeat(2, 1, 1, 1), tv_tensors.Mask(torch.zeros(4, 8, 8))),
        ValueError,
        r"for each of the 2 images, got \[4, 8, 8\]",
    ),
    (
        (IMAGE, BOXES),
        TypeError,
        r"must not hold BoundingBoxes: (boxes do not follow swapped pixels|the saliency maps replace their image)",
    ),
    (
        (IMAGE, POINTS),
        TypeError,
        "must not hold KeyPoints: (key points do not follow swapped pixels|the saliency maps replace their image)",
    ),
    (tv_tensors.Video(torch.rand(2, 3, 8, 8)), TypeError, r"must not hold Video: .* tv_tensors.Image\(video\)"),
]


@pytest.mark.parametrize("make", [SaliencySwap, LayerCAMExtractor])
@pytest.mark.parametrize(("sample", "kind", "sentence"), SAMPLES, ids=range(len(SAMPLES)))
def test_bad_samples_are_refused_with_the_remedy(make, sample, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make()(sample)


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
@pytest.mark.parametrize("make", [SaliencySwap, LayerCAMExtractor, lambda: LayerCAMExtractor().native_maps])
def test_vmap_is_refused_with_the_remedy(make, randomness):
    for images in (IMAGE[None].float(), IMAGE[None].to(torch.uint8), IMAGE[None, None]):
        with pytest.raises(
            TypeError, match=r"`image` must be a tensor outside of torch.vmap, .* pass the batch \[N, C, H, W\]"
        ):
            torch.vmap(make(), randomness=randomness)(images)


LEVELS, RANGE = r"`levels` must be 'all', 'random' or ", r"must be 0 < low <= high"
PAIR = r"`normalized` must be \(mean, std\)"
ARGUMENTS = [
    ({"scale": (0.3, 0.1)}, ValueError, rf"`scale` {RANGE} <= 1, got \(0.3, 0.1\)"),
    ({"scale": (0.1, 1.1)}, ValueError, rf"`scale` {RANGE} <= 1, got \(0.1, 1.1\)"),
    ({"scale": 0.1}, TypeError, r"`scale` must be two numbers \(low, high\), got 0.1"),
    ({"ratio": (0, 1)}, ValueError, rf"`ratio` {RANGE}, got \(0, 1\)"),
    ({"ratio": (1, float("nan"))}, ValueError, rf"`ratio` {RANGE}, got \(1, nan\)"),
    ({"p": 1.5}, ValueError, r"`p` must be a number in \[0, 1\], got 1.5"),
    ({"p": "often"}, TypeError, r"`p` must be a number in \[0, 1\], got 'often'"),
    ({"grid": 1}, ValueError, r"`grid` must be in \[2, 255\], got 1"),
    ({"grid": 24.0}, TypeError, r"`grid` must be an int, got 24.0"),
    ({"levels": "some"}, ValueError, LEVELS + "indices, got 'some'"),
    ({"levels": ()}, ValueError, LEVELS + r"distinct indices, got \(\)"),
    ({"levels": (1, 1)}, ValueError, LEVELS + r"distinct indices, got \(1, 1\)"),
    ({"levels": 1.5}, ValueError, LEVELS + "distinct indices, got 1.5"),
    ({"saliency": "tiny", "levels": 3}, ValueError, r"`levels` must be in \[-3, 2\] for 3 saliency maps, got 3"),
    ({"normalized": (0.5, 0.5)}, TypeError, PAIR + ", each a sequence of numbers, got .0.5, 0.5."),
    ({"normalized": ((0.5,), (0.0,))}, ValueError, PAIR + " of equal length, finite, with std > 0"),
    ({"normalized": ((float("nan"),), (1.0,))}, ValueError, PAIR + r" .* finite, .*got \(\(nan,\), \(1.0,\)\)"),
    ({"saliency": LayerCAMExtractor}, TypeError, r"`saliency` must be an object, got the class LayerCAMExtractor; pass"),
    ({"saliency": "resnet81"}, ValueError, r"`model` .*'resnet81'.*resnet18"),
    ({"saliency": 3}, TypeError, r"must be a model's name, an object with native_maps or a callable .* got int"),
    ({"clustering": "kmeens"}, ValueError, r"`clustering` .*'kmeens'.*kmeans"),
]


@pytest.mark.parametrize(("arguments", "kind", "sentence"), ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_bad_arguments_are_refused_at_construction(arguments, kind, sentence):
    with pytest.raises(kind, match=sentence):
        SaliencySwap(**{"saliency": hot_quarter, **arguments})


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda: SwapViews(), TypeError, "`transforms` must be one or more callables image -> image, got none"),
        (lambda: SwapViews(3), TypeError, r"`transforms` must be one or more callables image -> image, got \[3\]"),
        (lambda: SwapViews(abs)("x"), TypeError, "`image` must be a PIL image or a tensor, got str"),
        (lambda: SwapViews.collate([]), ValueError, "`batch` must hold samples with the same number of views, got none"),
        (
            lambda: SwapViews.collate([(pil("L"), pil("L"))]),
            TypeError,
            r"`batch` must hold views as image tensors, got Image; put v2.ToImage\(\)",
        ),
        (
            lambda: SwapViews.collate([{"image": (IMAGE, IMAGE), "label": 1}]),
            TypeError,
            r'`batch` must hold tuples of views, or \(views, target\), got dict; pass \[sample\["image"\] for sample in',
        ),
        (
            lambda: SwapViews.collate([(IMAGE, IMAGE), None]),
            TypeError,
            "must hold tuples of views, .* got NoneType; leave such samples out",
        ),
        (lambda: SwapViews.collate([IMAGE, IMAGE]), TypeError, "must hold tuples of views, .* got Tensor$"),
        (lambda: SwapViews.collate([(IMAGE, {"x": IMAGE})]), TypeError, "must hold views as image tensors, got dict$"),
        (lambda: SwapViews.collate([()]), ValueError, r"with the same number of views, got \[0\]"),
        (
            lambda: SwapViews.collate([SwapViews(SaliencySwap(return_mask=True))(torch.rand(3, 32, 32))]),
            TypeError,
            "must hold views as image tensors, got a view with its mask; SwapViews takes transforms without `return_mask`",
        ),
        (
            lambda: SwapViews.collate([((IMAGE, tv_tensors.Mask(IMAGE[:1])), 1)]),
            TypeError,
            "must hold views as image tensors, got a view with its mask",
        ),
        (
            lambda: SwapViews.collate([(IMAGE, IMAGE[:, :7])]),
            ValueError,
            r"views of one shape and dtype, got \[3, 7, 8\] of torch.float32, \[3, 8, 8\] of torch.float32; resize",
        ),
        (
            lambda: SwapViews.collate([(IMAGE, (IMAGE * 255).to(torch.uint8))]),
            ValueError,
            r"views of one shape and dtype, got \[3, 8, 8\] of torch.float32, \[3, 8, 8\] of torch.uint8",
        ),
    ],
)
def test_views_say_what_is_wrong(call, kind, sentence):
    with pytest.raises(kind, match=sentence):
        call()
