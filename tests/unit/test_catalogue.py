"""Names read from library sources by regular expression, on small sources of our own."""

from pathlib import Path

from bench.catalogue import WeightsEntry, read_timm, read_torchvision

TIMM = """
def _cfg(url='', **kwargs):
    return {'url': url, **kwargs}


def _hub_cfg(**kwargs):
    return _cfg(
        hf_hub_id='timm/',
        **kwargs)


default_cfgs = generate_default_cfgs({
    'small.first_in1k': _cfg(
        url='https://example.org/small-first.pth',
        hf_hub_id='timm/'),
    'small.second_in1k': _cfg(hf_hub_id='else/where', hf_hub_filename='weights.bin'),
    'starred.plain': _cfg(hf_hub_id='timm/'),
    'starred.best*': _cfg(hf_hub_id='timm/'),
    'untagged.tag': _cfg(hf_hub_id='timm/'),
    'untagged': _cfg(url='https://example.org/untagged.pth'),
    'nothing.untrained': _cfg(
        # hf_hub_id='timm/',
        num_classes=10),
    'helped.by_name': _hub_cfg(),
    'mapping.style': {
        'hf_hub_id': 'timm/',
    },
    'a_clip_b.openai': _cfg(
        hf_hub_id='timm/',
        notes=('natively QuickGELU, use quickgelu model variant for original results',)),
    'unregistered.in1k': _cfg(hf_hub_id='timm/'),
})


@register_model
def small(pretrained=False): ...


@register_model
def starred(pretrained=False): ...


@register_model
def untagged(pretrained=False): ...


@register_model
def nothing(pretrained=False): ...


@register_model
def helped(pretrained=False): ...


@register_model
def mapping(pretrained=False): ...


@register_model
def a_clip_b(pretrained=False): ...


@register_model
def a_clip_quickgelu_b(pretrained=False): ...
"""

SUFFIXED = """
_SOURCE_CFGS = {
    'eye.v1': _cfg(hf_hub_id='maker/eye', hf_hub_filename='eye.bin'),
}

default_cfgs = generate_default_cfgs({
    f'{name.split(".", 1)[0]}{suffix}.{name.split(".", 1)[1]}': dict(hf_hub_id='timm/')
    for name, cfg in _SOURCE_CFGS.items()
    for suffix in ('', '_enc')
})


@register_model
def eye(pretrained=False): ...


@register_model
def eye_enc(pretrained=False): ...
"""

TORCHVISION = '''
class Net18_Weights(WeightsEnum):
    IMAGENET1K_V1 = Weights(
        url="https://example.org/net18-0123abcd.pth",
        transforms=partial(ImageClassification, crop_size=224),
        meta={
            "_file_size": 2.0,
        },
    )
    IMAGENET1K_V2 = Weights(
        url="https://example.org/net18-89abcdef.pth",
        transforms=partial(ImageClassification, crop_size=224),
        meta={},
    )
    DEFAULT = IMAGENET1K_V2


@register_model()
@handle_legacy_interface(weights=("pretrained", Net18_Weights.IMAGENET1K_V1))
def net18(*, weights: Optional[Net18_Weights] = None, progress: bool = True) -> Net:
    """Net."""
'''


def write(folder: Path, **sources: str) -> Path:
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_timm_names_come_with_their_place(tmp_path: Path) -> None:
    weights = read_timm(write(tmp_path, models=TIMM)).weights
    assert weights["small.first_in1k"] == WeightsEntry(
        "small.first_in1k",
        hub_id="timm/small.first_in1k",
        url="https://example.org/small-first.pth",
    )
    assert weights["small.second_in1k"].hub_id == "else/where"
    assert weights["small.second_in1k"].filename == "weights.bin"
    assert weights["mapping.style"].hub_id == "timm/mapping.style"
    assert weights["helped.by_name"].hub_id == "timm/helped.by_name"


def test_a_place_in_a_comment_and_an_unregistered_name_do_not_count(tmp_path: Path) -> None:
    catalogue = read_timm(write(tmp_path, models=TIMM))
    assert "nothing.untrained" not in catalogue.weights
    assert catalogue.architectures["nothing"] is None
    assert "unregistered.in1k" not in catalogue.weights
    assert "unregistered" not in catalogue.architectures


def test_the_default_is_untagged_else_starred_else_first(tmp_path: Path) -> None:
    catalogue = read_timm(write(tmp_path, models=TIMM))
    assert catalogue.architectures["small"] == "small.first_in1k"
    assert catalogue.architectures["starred"] == "starred.best"
    assert catalogue.architectures["untagged"] == "untagged"
    found = catalogue.resolve("small")
    assert found is not None
    assert found.name == "small.first_in1k"
    assert catalogue.resolve("nothing") is None
    assert catalogue.resolve("unheard_of") is None


def test_a_quickgelu_twin_shares_the_hub_repository(tmp_path: Path) -> None:
    weights = read_timm(write(tmp_path, models=TIMM)).weights
    assert weights["a_clip_quickgelu_b.openai"].hub_id == "timm/a_clip_b.openai"


def test_names_made_from_a_table_and_suffixes_are_found(tmp_path: Path) -> None:
    weights = read_timm(write(tmp_path, eyes=SUFFIXED)).weights
    assert sorted(weights) == ["eye.v1", "eye_enc.v1"]
    assert weights["eye_enc.v1"] == WeightsEntry("eye_enc.v1", hub_id="timm/eye_enc.v1")


def test_torchvision_names_come_with_address_size_and_default(tmp_path: Path) -> None:
    catalogue = read_torchvision(write(tmp_path, net=TORCHVISION))
    assert catalogue.architectures == {"net18": "net18@IMAGENET1K_V2"}
    assert catalogue.weights["net18@IMAGENET1K_V1"] == WeightsEntry(
        "net18@IMAGENET1K_V1",
        url="https://example.org/net18-0123abcd.pth",
        num_bytes=2 << 20,
    )
    assert catalogue.weights["net18@IMAGENET1K_V2"].num_bytes is None


def test_a_library_that_is_not_installed_has_no_names() -> None:
    assert read_timm(None).weights == {}
    assert read_torchvision(None).architectures == {}
