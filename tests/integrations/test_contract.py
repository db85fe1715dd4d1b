"""What every adapter promises alike: it refuses what the core refuses, and lets follow what the core lets follow."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any, NamedTuple

import albumentations as A
import kornia.augmentation as K
import numpy as np
import PIL.Image
import pytest
import torch
from anomalib.data import DepthBatch, ImageBatch, ImageItem, VideoBatch, VideoItem
from helpers.images import scene
from torch import Tensor
from torchvision import tv_tensors

from cutswap_transforms import SaliencySwap
from cutswap_transforms.adapters import AlbumentationsSwap, AnomalibSwap, HuggingFaceSwap, KorniaSwap

HEIGHT, WIDTH = 44, 52
IMAGE = scene(HEIGHT, WIDTH) / 255  # float [3, H, W]
ARRAY = scene(HEIGHT, WIDTH).permute(1, 2, 0).numpy()
PICTURE = PIL.Image.fromarray(ARRAY)
BATCH = torch.stack([scene(HEIGHT, WIDTH, seed=i) / 255 for i in range(3)])
BOXES = tv_tensors.BoundingBoxes([[1, 2, 20, 30]], format="XYXY", canvas_size=(HEIGHT, WIDTH))
POINTS = tv_tensors.KeyPoints([[1.0, 2.0]], canvas_size=(HEIGHT, WIDTH))


class Swapped(NamedTuple):
    """What came out: image and mask as arrays [H, W, C] and [H, W]."""

    image: Any
    mask: Any


def chw(image: Tensor) -> Any:
    return image.as_subclass(Tensor).movedim(-3, -1).numpy()


def by_anomalib(swap: SaliencySwap, mask: Any = None) -> Swapped:
    truth = None if mask is None else torch.from_numpy(mask)[None]
    batch = ImageBatch(image=IMAGE[None].clone(), gt_mask=truth)
    AnomalibSwap(swap).on_train_batch_start(None, None, batch, 0)
    assert bool(batch.gt_label[0]) == (batch.image[0] != IMAGE).any()
    return Swapped(chw(batch.image[0]), batch.gt_mask[0].numpy())


def by_kornia(swap: SaliencySwap, mask: Any = None) -> Swapped:
    truth = torch.zeros(1, 1, HEIGHT, WIDTH) if mask is None else torch.from_numpy(mask)[None, None].float()
    out, marked = K.AugmentationSequential(KorniaSwap(swap), data_keys=["input", "mask"])(IMAGE[None], truth)
    return Swapped(chw(out[0]), marked[0, 0].numpy())


def by_albumentations(swap: SaliencySwap, mask: Any = None) -> Swapped:
    truth = np.zeros((HEIGHT, WIDTH), np.uint8) if mask is None else mask.astype(np.uint8)
    out = A.Compose([AlbumentationsSwap(swap)], seed=0)(image=chw(IMAGE), mask=truth)
    return Swapped(out["image"], out["mask"])


def by_hugging_face(swap: SaliencySwap, mask: Any = None) -> Swapped:
    if mask is None:
        out = HuggingFaceSwap(swap, mask="mask")({"image": [IMAGE]})
    else:
        out = HuggingFaceSwap(swap)({"image": [IMAGE], "mask": [tv_tensors.Mask(torch.from_numpy(mask)[None])]})
    return Swapped(chw(out["image"][0]), out["mask"][0].as_subclass(Tensor)[0].numpy())


ADAPTERS = (by_anomalib, by_kornia, by_albumentations, by_hugging_face)
EVERY = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda f: f.__name__)


# ---- what follows -----------------------------------------------------------------------------------------------------


@EVERY
def test_pixels_are_permuted_and_the_mask_says_where(adapter):
    before = chw(IMAGE)
    out = adapter(SaliencySwap())
    changed = (out.image != before).any(-1)
    assert changed.any() and not changed[out.mask == 0].any() and set(np.unique(out.mask)) == {0, 1}
    assert np.array_equal(np.sort(out.image.reshape(-1)), np.sort(before.reshape(-1)))
    assert np.array_equal(chw(IMAGE), before), "the input was changed"


@EVERY
def test_a_truth_stays_and_gets_the_area(adapter):
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[-9:, -9:] = True
    out = adapter(SaliencySwap(), truth)
    assert out.mask[truth].all() and out.mask.sum() > truth.sum()


@EVERY
def test_a_missed_p_changes_nothing(adapter):
    out = adapter(SaliencySwap(p=0.0))
    assert np.array_equal(out.image, chw(IMAGE)) and not out.mask.any()


@EVERY
def test_no_accelerator_is_reseeded_and_only_torchs_draw_moves(adapter, monkeypatch):
    seeds: list[int] = []
    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, seeds.append, raising=False)
    states = str(np.random.get_state()), torch.get_rng_state()
    adapter(SaliencySwap())
    assert not seeds and str(np.random.get_state()) == states[0]
    moved = adapter is not by_albumentations  # which draws from its Compose
    assert torch.equal(torch.get_rng_state(), states[1]) != moved


def test_depth_maps_are_swapped_in_step():
    depth = torch.arange(3.0 * HEIGHT * WIDTH).reshape(3, HEIGHT, WIDTH)
    for given in (depth, depth[:, None], depth[:, None].expand(-1, 3, -1, -1)):
        out = SaliencySwap()(DepthBatch(image=BATCH, depth_map=given.clone()))
        moved = out.depth_map.reshape(3, -1, HEIGHT, WIDTH) != given.reshape(3, -1, HEIGHT, WIDTH)
        assert out.depth_map.shape == given.shape and moved.any()
        assert torch.equal(moved.any(1), (out.image != BATCH).any(1))
    with pytest.raises(ValueError, match=r"`sample` must hold images of one size"):
        SaliencySwap()(DepthBatch(image=BATCH, depth_map=depth[:, :40]))


def test_all_images_of_a_sample_get_the_same_pairs():
    pair = K.AugmentationSequential(KorniaSwap(), data_keys=["input", "image"])(BATCH, BATCH)
    assert torch.equal(*pair) and not torch.equal(pair[0], BATCH)
    for images in ([ARRAY, ARRAY], np.stack([ARRAY, ARRAY])):
        out = A.Compose([AlbumentationsSwap()])(images=images, masks=[np.zeros((HEIGHT, WIDTH), np.uint8)] * 2)
        assert type(out["images"]) is type(images) and np.array_equal(*out["images"])
        assert np.array_equal(*out["masks"]) and out["masks"][0].any()
    named = A.Compose([AlbumentationsSwap()], additional_targets={"other": "image"})(image=ARRAY, other=ARRAY)
    assert np.array_equal(named["image"], named["other"]) and not np.array_equal(named["image"], ARRAY)
    columns = HuggingFaceSwap()({"label": [0], "other": [PICTURE], "image": [PICTURE], "views": [[PICTURE, PICTURE]]})
    images = [columns["image"][0], columns["other"][0], *columns["views"][0]]
    assert len({x.tobytes() for x in images}) == 1 and images[0].tobytes() != PICTURE.tobytes() and columns["label"] == [0]
    views = HuggingFaceSwap(column="views")({"views": [[IMAGE, IMAGE], [IMAGE, IMAGE]]})["views"]
    assert all(torch.equal(*pair) for pair in views) and not torch.equal(views[0][0], views[1][0])


@pytest.mark.parametrize("image", [PICTURE, IMAGE, tv_tensors.Image(IMAGE)], ids=["PIL", "tensor", "Image"])
def test_a_single_sample_of_hugging_face_and_a_batch_that_is_a_tensor(image):
    out = HuggingFaceSwap(mask="mask")({"image": image, "label": 3})
    assert type(out["image"]) is type(image) and out["label"] == 3 and out["mask"].shape == (1, HEIGHT, WIDTH)
    stacked = HuggingFaceSwap(mask="mask")({"image": BATCH, "label": torch.arange(3)})
    assert stacked["image"].shape == BATCH.shape and [mask.any().item() for mask in stacked["mask"]] == [True] * 3


def test_single_samples_of_the_others():
    item = ImageItem(image=IMAGE.clone(), gt_label=torch.tensor(0))
    AnomalibSwap(SaliencySwap()).on_train_batch_start(None, None, item, 0)
    assert item.gt_label and item.gt_mask.any() and item.gt_mask.shape == (HEIGHT, WIDTH)
    assert KorniaSwap()(IMAGE).shape == (1, 3, HEIGHT, WIDTH) and KorniaSwap(keepdim=True)(IMAGE).shape == IMAGE.shape


def test_kornia_takes_lists_of_masks_frames_one_by_one_and_same_on_batch():
    zeros = torch.zeros(3, 1, HEIGHT, WIDTH)
    keys = ["input", "mask", "mask"]
    _, masks, listed = K.AugmentationSequential(KorniaSwap(), data_keys=keys)(BATCH, zeros, list(zeros))
    assert all(torch.equal(a, b.reshape(a.shape)) and a.any() for a, b in zip(masks, listed, strict=True))
    frames = BATCH[None, :1].expand(1, 4, -1, -1, -1)
    out = K.VideoSequential(KorniaSwap(), same_on_frame=False)(frames)
    assert out.shape == frames.shape and len({x.numpy().tobytes() for x in out[0]}) == 4
    for swap in (KorniaSwap(same_on_batch=True), KorniaSwap()):
        same = K.AugmentationSequential(swap, same_on_batch=True, data_keys=["input", "mask"])
        masks = same(BATCH, zeros)[1]
        assert masks.any() and torch.equal(masks, masks[:1].expand(3, -1, -1, -1))


def test_read_only_arrays_are_arrays(recwarn):
    image, mask = ARRAY.copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
    image.flags.writeable = mask.flags.writeable = False
    out = AlbumentationsSwap()(image=image, mask=mask, masks=[mask])
    assert out["mask"].any() and np.array_equal(out["mask"], out["masks"][0])
    assert not [w for w in recwarn if "writable" in str(w.message)]


# ---- what is refused --------------------------------------------------------------------------------------------------

BOXES_REFUSED = "`sample` must not hold BoundingBoxes: boxes do not follow swapped pixels"
POINTS_REFUSED = "`sample` must not hold KeyPoints: key points do not follow swapped pixels"
VIDEO_REFUSED = "`sample` must not hold Video: frames would share one pair"
NEVER = SaliencySwap(p=0.0)  # what is refused is refused whatever is drawn


def kornia(key: str, value: Tensor) -> Any:
    return K.AugmentationSequential(KorniaSwap(NEVER), data_keys=["input", key])(BATCH, value)


def albumentations(**data: Any) -> Any:
    return AlbumentationsSwap(p=0.0)(**{"image": ARRAY, **data})


def hugging_face(**columns: Any) -> Any:
    return HuggingFaceSwap(NEVER, mask="made")({"image": [PICTURE], **columns})


def anomalib(batch: Any) -> Any:
    return AnomalibSwap(NEVER).on_train_batch_start(None, None, batch, 0)


def item(**fields: Any) -> Any:
    """As a library that keeps to anomalib's names has it, without its checks."""
    return SimpleNamespace(**{"image": BATCH, "gt_mask": None, "gt_label": None, "update": vars, **fields})


REFUSED = {
    "boxes, kornia": (lambda: kornia("bbox_xyxy", torch.tensor([[[5.0, 5, 20, 20]]] * 3)), TypeError, BOXES_REFUSED),
    "points, kornia": (lambda: kornia("keypoints", torch.tensor([[[5.0, 5]]] * 3)), TypeError, POINTS_REFUSED),
    "boxes, albumentations": (lambda: albumentations(bboxes=np.array([[0.0, 0, 0.5, 0.5]])), TypeError, BOXES_REFUSED),
    "points, albumentations": (lambda: albumentations(keypoints=np.array([[1.0, 2]])), TypeError, POINTS_REFUSED),
    "boxes, Hugging Face": (lambda: hugging_face(boxes=[BOXES]), TypeError, BOXES_REFUSED),
    "points, Hugging Face": (lambda: hugging_face(objects=[{"points": POINTS}]), TypeError, POINTS_REFUSED),
    "video, kornia": (
        lambda: K.VideoSequential(KorniaSwap(NEVER))(BATCH[None]),
        TypeError,
        VIDEO_REFUSED + ".*same_on_frame=False",
    ),
    "video, albumentations": (lambda: AlbumentationsSwap()(volume=np.stack([ARRAY] * 2)), TypeError, VIDEO_REFUSED),
    "video, Hugging Face": (lambda: hugging_face(clip=[tv_tensors.Video(BATCH)]), TypeError, VIDEO_REFUSED),
    "video, anomalib": (lambda: anomalib(VideoBatch(image=BATCH[None])), TypeError, VIDEO_REFUSED),
    "item of a video, anomalib": (lambda: NEVER(VideoItem(image=BATCH)), TypeError, VIDEO_REFUSED),
    "array, kornia": (lambda: KorniaSwap()(ARRAY), TypeError, "`image` must be a PIL image or a tensor, got numpy.ndarray"),
    "array, Hugging Face": (
        lambda: HuggingFaceSwap()({"image": [ARRAY]}),
        TypeError,
        "got numpy.ndarray of shape .* v2.ToImage",
    ),
    "array beside, Hugging Face": (lambda: hugging_face(depth=[ARRAY[..., 0]]), TypeError, "got numpy.ndarray of shape"),
    "tensor, albumentations": (
        lambda: albumentations(image=IMAGE),
        TypeError,
        r"`image` must be a numpy.ndarray .* got Tensor",
    ),
    "PIL, albumentations": (lambda: albumentations(image=PICTURE), TypeError, r"`image` must be a numpy.ndarray .* got Image"),
    "tensor as mask, albumentations": (lambda: albumentations(masks=[IMAGE[0]]), TypeError, "`masks` must be a numpy.ndarray"),
    "no image, albumentations": (lambda: AlbumentationsSwap()(mask=ARRAY[..., 0]), TypeError, "`sample` must hold an image"),
    "dict, anomalib": (
        lambda: anomalib({"image": BATCH}),
        TypeError,
        "`batch` must be an item or a batch of anomalib, .* got dict",
    ),
    "list, Hugging Face": (lambda: HuggingFaceSwap()([PICTURE]), TypeError, "`batch` must be a mapping of columns, got list"),
    "None, Hugging Face": (
        lambda: HuggingFaceSwap()({"image": None}),
        TypeError,
        "must hold PIL images or tensors, got NoneType",
    ),
    "sizes, kornia": (lambda: kornia("image", BATCH[..., :40]), ValueError, r"`params` must be drawn for an image of \(H, W\)"),
    "sizes, albumentations": (lambda: albumentations(mask=ARRAY[:40, :, 0]), ValueError, "and masks must be of one size"),
    "sizes, Hugging Face": (lambda: hugging_face(other=[PICTURE.resize((9, 9))]), ValueError, "must hold images of one size"),
    "mask, Hugging Face": (lambda: hugging_face(m=[tv_tensors.Mask(IMAGE[:1, :9])]), ValueError, "masks of the image's size"),
    "mask, anomalib": (lambda: anomalib(item(gt_mask=torch.zeros(3, 9, 9))), ValueError, "masks of the image's size"),
    "masks, anomalib": (lambda: anomalib(item(gt_mask=torch.zeros(2, 44, 52))), ValueError, "a mask for each of the 3 images"),
    "labels, anomalib": (
        lambda: anomalib(item(gt_label=torch.zeros(2))),
        ValueError,
        r"a label for each of the 3 .* shape \[2\]",
    ),
    "range, kornia": (lambda: KorniaSwap()(BATCH * 255), ValueError, r"must be in \[0, 1\], got values from"),
    "range, albumentations": (
        lambda: AlbumentationsSwap()(image=ARRAY.astype(np.float32)),
        ValueError,
        r"must be in \[0, 1\], got values from",
    ),
    "truth, Hugging Face": (
        lambda: hugging_face(made=[PICTURE]),
        ValueError,
        "`mask` must name a new column, got 'made', which exists and would be overwritten",
    ),
    "column as mask, Hugging Face": (
        lambda: HuggingFaceSwap(mask="image"),
        ValueError,
        "`mask` must name a new column, got 'image'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_core_refuses_is_refused_with_its_sentence(case):
    call, kind, sentence = REFUSED[case]
    with pytest.raises(kind, match=sentence):
        call()


# ---- copies, in the host's own way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [AnomalibSwap, KorniaSwap, AlbumentationsSwap, HuggingFaceSwap])
def test_what_is_no_swap_is_refused_at_once(make):
    with pytest.raises(TypeError, match=r"`swap` must be a SaliencySwap, got 'resnet18'; pass SaliencySwap\(\.\.\.\)"):
        make("resnet18")


@pytest.mark.parametrize("make", [AnomalibSwap, KorniaSwap, AlbumentationsSwap, HuggingFaceSwap])
def test_copies_are_made_before_and_after_the_first_call(make):
    adapter = make(SaliencySwap(levels="all"))
    for _ in range(2):
        for twin in (pickle.loads(pickle.dumps(adapter)), copy.deepcopy(adapter)):
            assert repr(twin.swap) == repr(adapter.swap)
        adapter.swap(IMAGE)


def test_kornias_state_and_parameters_travel():
    augment = K.AugmentationSequential(K.RandomHorizontalFlip(), KorniaSwap(), data_keys=["input", "mask"])
    zeros = torch.zeros(3, 1, HEIGHT, WIDTH)
    out, masks = augment(BATCH, zeros)
    twin = K.AugmentationSequential(K.RandomHorizontalFlip(), KorniaSwap(), data_keys=["input", "mask"])
    twin.load_state_dict(augment.state_dict())
    again, masks_again = twin(BATCH, zeros, params=pickle.loads(pickle.dumps(augment._params)))
    assert torch.equal(again, out) and torch.equal(masks_again, masks)
    with pytest.raises(
        ValueError, match=r"`params` must be drawn for an image of \(H, W\) = \(44, 40\), got those for \(44, 52\)"
    ):
        augment(BATCH[..., :40], zeros[..., :40], params=augment._params)
    compiled = torch.compile(augment, backend="eager")
    assert compiled(BATCH, zeros)[1].flatten(1).any(1).all()
