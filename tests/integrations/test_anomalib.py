"""anomalib trains with the negatives: images, masks and labels are right, and a share of the batch stays normal."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import timm
import torch
import toy
from anomalib.data import Folder, ImageItem
from anomalib.engine import Engine
from anomalib.models import Draem, Supersimplenet
from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, ReconstructiveSubNetwork
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, seed_everything

from cutswap_transforms import SaliencySwap, SwapViews
from cutswap_transforms.adapters import AnomalibSwap


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data module as most users have it: normal images without masks."""
    root = tmp_path_factory.mktemp("toy")
    toy.write_toy(root / "toy", size=64, train=8, good=2, per_defect=1, categories=("flange",))
    return Folder(
        name="flange",
        root=root / "toy" / "flange",
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/chip",
        train_batch_size=4,
        num_workers=0,
        val_split_mode="same_as_test",
    )


class Seen(Callback):
    """Keeps the batches as the model gets them."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch.update(in_place=False))


def train(model, data, folder, *callbacks):
    seed_everything(0)
    engine = Engine(
        max_epochs=2, accelerator="cpu", limit_val_batches=0, callbacks=list(callbacks), default_root_dir=folder, logger=False
    )
    engine.fit(model, datamodule=data)
    assert engine.trainer.current_epoch == 2


def test_supersimplenet_trains_on_negatives_of_the_batch(data, tmp_path, monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: create(*args, **{**options, "pretrained": False}))
    seen = Seen()
    train(Supersimplenet(backbone="resnet18"), data, tmp_path, AnomalibSwap(), seen)
    labels = torch.cat([batch.gt_label for batch in seen.batches])
    masks = torch.cat([batch.gt_mask for batch in seen.batches])
    assert len(labels) == 16 and 0 < int(labels.sum()) < 16
    assert torch.equal(labels.bool(), masks.flatten(1).any(1))


def test_draem_trains_with_the_generator_and_downloads_nothing(data, tmp_path, monkeypatch):
    download = Mock(side_effect=AssertionError("textures were downloaded"))
    monkeypatch.setattr("anomalib.models.image.draem.lightning_model.download_and_extract", download)
    folder = data.root / "train" / "good"  # in place of its textures, which are not read
    model = Draem(folder, pre_processor=Draem.configure_pre_processor((64, 64)))
    # Its networks, 8 channels wide: of 64 and 128 channels a step and a checkpoint take minutes on a busy machine.
    model.model.reconstructive_subnetwork = ReconstructiveSubNetwork(base_width=8)
    model.model.discriminative_subnetwork = DiscriminativeSubNetwork(in_channels=6, out_channels=2, base_width=8)
    model.augmenter = SaliencySwap(p=0.5).as_anomaly_generator()
    assert "p=0.5" in repr(model.augmenter)
    train(model, data, tmp_path)


@pytest.mark.parametrize("masked", [True, False])
def test_an_item_is_swapped_with_mask_and_label(masked):
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(40, 50, dtype=torch.bool) if masked else None
    item = ImageItem(image=image, gt_mask=mask, gt_label=torch.tensor(0), image_path="a.png")
    torch.manual_seed(0)
    out = SaliencySwap()(item)
    torch.manual_seed(0)
    assert torch.equal(out.image, SaliencySwap()(image)) and out.image_path == "a.png"
    assert bool(out.gt_label) and torch.equal((out.image != image).any(0) & ~out.gt_mask.bool(), torch.zeros(40, 50).bool())
    assert not item.gt_label and torch.equal(item.image, image), "the input was changed"
    assert not SaliencySwap(p=0.0)(item).gt_label


def test_the_callback_can_be_named_in_yaml():
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    swap = {"class_path": "cutswap_transforms.SaliencySwap", "init_args": {"p": 0.3, "levels": "all"}}
    named = {"class_path": "cutswap_transforms.adapters.AnomalibSwap", "init_args": {"swap": swap}}
    (callback,) = parser.instantiate_classes(parser.parse_object({"callbacks": [named]})).callbacks
    assert isinstance(callback, AnomalibSwap) and (callback.swap.p, callback.swap.levels) == (0.3, "all")


def test_precompute_takes_the_data_set_of_a_data_module(data, tmp_path):
    data.setup()
    swap = SaliencySwap(cache=tmp_path / "regions")
    assert swap.precompute(data.train_data) == 8
    batch = next(iter(data.train_dataloader()))
    swap(batch)
    assert (swap.cache.hits, swap.cache.misses) == (4, 0)


def test_views_say_that_they_take_one_image():
    with pytest.raises(TypeError, match="`SwapViews` takes one image, got 2 inputs"):
        SwapViews(SaliencySwap())(torch.rand(3, 8, 8), torch.zeros(8, 8))
