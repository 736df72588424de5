"""The torch-free catalogue against the libraries themselves."""

import subprocess
import sys

import timm
import torchvision.models
from timm.models import get_arch_pretrained_cfgs

from bench.catalogue import timm_catalogue, torchvision_catalogue


def test_every_pretrained_timm_name_is_known_with_its_place() -> None:
    catalogue = timm_catalogue()
    assert set(catalogue.weights) == set(timm.list_pretrained())
    assert set(catalogue.architectures) == set(timm.list_models())
    for arch in catalogue.architectures:
        for name, config in get_arch_pretrained_cfgs(arch).items():
            if not config.has_weights:
                continue
            entry = catalogue.weights[name]
            assert (entry.hub_id, entry.url, entry.filename) == (
                config.hf_hub_id or None,
                config.url or None,
                config.hf_hub_filename,
            )


def test_default_timm_weights_are_those_that_timm_would_load() -> None:
    for arch, default in timm_catalogue().architectures.items():
        config = timm.get_pretrained_cfg(arch)
        if config is None or not config.has_weights:
            assert default is None, arch
        else:
            assert default == (f"{arch}.{config.tag}" if config.tag else arch)


def test_every_torchvision_classifier_is_known_with_its_place() -> None:
    expected, defaults = {}, {}
    for model in torchvision.models.list_models(module=torchvision.models):
        members = torchvision.models.get_model_weights(model)
        defaults[model] = f"{model}@{members.DEFAULT.name}"
        expected |= {f"{model}@{member.name}": member.url for member in members}
    catalogue = torchvision_catalogue()
    assert {name: entry.url for name, entry in catalogue.weights.items()} == expected
    assert catalogue.architectures == defaults


def test_listing_every_source_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from bench.registry import backbone_source, registered\n"
        "count = sum(len(backbone_source(f'{p}/x').names()) for p in registered('backbones'))\n"
        "assert count > 1000, count\n"
        "assert not {'torch', 'timm', 'torchvision', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
