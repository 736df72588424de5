"""The image classification sets of torchvision as a table; imports no torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

OTHER_TASKS: Mapping[str, str] = MappingProxyType(
    {
        "CelebA": "40 attributes per image",
        "Cityscapes": "a class per pixel",
        "CocoCaptions": "captions in place of classes",
        "CocoDetection": "several objects per image",
        "Flickr30k": "captions in place of classes",
        "Flickr8k": "captions in place of classes",
        "Kitti": "several objects per image",
        "SBDataset": "a class per pixel",
        "VOCDetection": "several objects per image",
        "VOCSegmentation": "a class per pixel",
        "WIDERFace": "several faces per image",
    }
)
"""What the labels are of classes in ``torchvision.datasets`` that have not one class an image."""


@dataclass(frozen=True)
class TorchvisionSet:
    """How torchvision's class is called and where its files lie.

    Attributes:
        class_name: Class in ``torchvision.datasets``.
        parts: Constructor arguments by part; a set without a split of its own has train alone.
        paths: Below the data folder, all present once the set is there.
        num_bytes: Of the download, where known.
        downloadable: Whether torchvision fetches it.
        needs: A distribution that the class needs beside torchvision.
        skip_classes: Leading class indices that no example has.
    """

    class_name: str
    parts: Mapping[str, Mapping[str, Any]]
    paths: tuple[str, ...]
    num_bytes: int | None = None
    downloadable: bool = True
    needs: str | None = None
    skip_classes: int = 0


_FLAG = MappingProxyType({"train": {"train": True}, "test": {"train": False}})
_WHOLE: Mapping[str, Mapping[str, Any]] = MappingProxyType({"train": {}})


def _splits(*names: str, **fixed: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return arguments for classes that take ``split=``; ``part:name`` where the names differ."""
    parts = {}
    for name in names:
        part, _, value = name.partition(":")
        parts[part] = {"split": value or part, **fixed}
    return parts


def _emnist(subset: str, skip_classes: int = 0) -> TorchvisionSet:
    parts = {part: {"split": subset, **arguments} for part, arguments in _FLAG.items()}
    files = (f"emnist-{subset}-{part}-images-idx3-ubyte" for part in ("train", "test"))
    return TorchvisionSet(
        "EMNIST",
        parts,
        tuple(f"EMNIST/raw/{file}" for file in files),
        num_bytes=561_753_746,
        skip_classes=skip_classes,
    )


def _mnist_like(class_name: str, num_bytes: int) -> TorchvisionSet:
    files = (f"{part}-images-idx3-ubyte" for part in ("train", "t10k"))
    paths = tuple(f"{class_name}/raw/{file}" for file in files)
    return TorchvisionSet(class_name, _FLAG, paths, num_bytes=num_bytes)


def _imagenette(size: str, folder: str) -> TorchvisionSet:
    # Its publisher calls the held-out part val; it is what everyone reports, so it is the test.
    parts = _splits("train", "test:val", size=size)
    return TorchvisionSet("Imagenette", parts, (f"{folder}/train", f"{folder}/val"))


def _aircraft(level: str) -> TorchvisionSet:
    return TorchvisionSet(
        "FGVCAircraft",
        _splits("train", "val", "test", annotation_level=level),
        ("fgvc-aircraft-2013b",),
        num_bytes=2_753_340_328,
    )


SETS: Mapping[str, TorchvisionSet] = MappingProxyType(
    {
        "CIFAR10": TorchvisionSet("CIFAR10", _FLAG, ("cifar-10-batches-py",), 170_498_071),
        "CIFAR100": TorchvisionSet("CIFAR100", _FLAG, ("cifar-100-python",), 169_001_437),
        "Caltech101": TorchvisionSet(
            "Caltech101", _WHOLE, ("caltech101/101_ObjectCategories",), needs="gdown"
        ),
        "Caltech256": TorchvisionSet(
            "Caltech256", _WHOLE, ("caltech256/256_ObjectCategories",), needs="gdown"
        ),
        "Country211": TorchvisionSet(
            "Country211", _splits("train", "val:valid", "test"), ("country211",)
        ),
        "DTD": TorchvisionSet("DTD", _splits("train", "val", "test"), ("dtd/dtd",), 625_239_812),
        "EMNIST-balanced": _emnist("balanced"),
        "EMNIST-digits": _emnist("digits"),
        "EMNIST-letters": _emnist("letters", skip_classes=1),
        "EuroSAT": TorchvisionSet("EuroSAT", _WHOLE, ("eurosat/2750",), 94_280_567),
        "FGVCAircraft": _aircraft("variant"),
        "FGVCAircraft-family": _aircraft("family"),
        "FGVCAircraft-manufacturer": _aircraft("manufacturer"),
        "FashionMNIST": _mnist_like("FashionMNIST", 30_878_645),
        "Flowers102": TorchvisionSet(
            "Flowers102",
            _splits("train", "val", "test"),
            ("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
            num_bytes=344_862_509,
        ),
        "Food101": TorchvisionSet(
            "Food101",
            _splits("train", "test"),
            ("food-101/meta", "food-101/images"),
            num_bytes=4_996_278_331,
        ),
        "GTSRB": TorchvisionSet(
            "GTSRB",
            _splits("train", "test"),
            ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv"),
        ),
        "Imagenette": _imagenette("full", "imagenette2"),
        "Imagenette-160px": _imagenette("160px", "imagenette2-160"),
        "Imagenette-320px": _imagenette("320px", "imagenette2-320"),
        "KMNIST": _mnist_like("KMNIST", 21_240_888),
        "MNIST": _mnist_like("MNIST", 11_594_722),
        "OxfordIIITPet": TorchvisionSet(
            "OxfordIIITPet",
            _splits("train:trainval", "test"),
            ("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
            num_bytes=811_092_049,
        ),
        "RenderedSST2": TorchvisionSet(
            "RenderedSST2", _splits("train", "val", "test"), ("rendered-sst2",)
        ),
        "SEMEION": TorchvisionSet("SEMEION", _WHOLE, ("semeion.data",)),
        "STL10": TorchvisionSet(
            "STL10", _splits("train", "test"), ("stl10_binary",), 2_640_397_119
        ),
        "SUN397": TorchvisionSet("SUN397", _WHOLE, ("SUN397",)),
        "SVHN": TorchvisionSet(
            "SVHN", _splits("train", "test"), ("train_32x32.mat", "test_32x32.mat"), 246_316_178
        ),
        "StanfordCars": TorchvisionSet(
            "StanfordCars",
            _splits("train", "test"),
            (
                "stanford_cars/devkit",
                "stanford_cars/cars_train",
                "stanford_cars/cars_test",
                "stanford_cars/cars_test_annos_withlabels.mat",
            ),
            downloadable=False,
        ),
        "USPS": TorchvisionSet("USPS", _FLAG, ("usps.bz2", "usps.t.bz2")),
    }
)
"""By the name that follows ``torchvision/`` in a suite."""
