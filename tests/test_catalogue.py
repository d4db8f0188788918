"""The catalogue: names, places of weights, loading what is here, downloading what is not."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import huggingface_hub
import pytest
import skimage.data
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save
from torch import nn

from cnnviz_core import catalogue
from cnnviz_core.catalogue import WeightsPlace
from cnnviz_core.errors import UnknownModel, WeightsUnavailable

SQUEEZENET = "torchvision/squeezenet1_1"
TINY = "timm/test_resnet"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Download folders of this test's own, and a network that leads nowhere but to this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def checkpoints_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def url_of(model_id: str) -> str:
    return catalogue._lookup(model_id).url


def put_in_hub_cache(tmp_path: Path, hub_id: str, name: str, content: bytes) -> Path:
    folder = tmp_path / "huggingface" / f"models--{hub_id.replace('/', '--')}"
    file = folder / "snapshots" / COMMIT / name
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return file


def holds(net: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    ours = net.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[name], state[name]) for name in ours)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


# --- the list ---


def test_importing_stays_light() -> None:
    heavy = ["torch", "torchvision", "timm", "safetensors", "huggingface_hub"]
    code = (
        f"import sys, cnnviz_core.catalogue, cnnviz_core.checkpoints; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_both_libraries_are_listed_ready_networks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", None)  # whoever connects fails
    catalogue._published.cache_clear()
    listed = catalogue.entries()
    ready = [entry.ready for entry in listed]
    assert ready == sorted(ready, reverse=True)
    assert listed[0].model_id == catalogue.DEFAULT_MODEL
    assert listed[0].weights is WeightsPlace.BUNDLED
    names = {entry.model_id for entry in listed}
    assert len(names) == len(listed) > 1000
    for name in (
        "torchvision/alexnet",
        "torchvision/vgg16",
        "torchvision/googlenet",
        "timm/resnet50",
        "timm/convnext_tiny",
    ):
        assert name in names
    for name in ("torchvision/vit_b_16", "torchvision/swin_t", "timm/vit_tiny_patch16_224", "timm/mixer_b16_224"):
        assert name not in names
        assert not catalogue.find(name).convolutional


@pytest.mark.slow
def test_what_is_offered_convolves_over_neighbourhoods() -> None:
    import timm

    token_networks = 0
    for source in timm.list_modules():
        name = min(timm.list_models(module=source), key=len)
        with torch.device("meta"):
            net = catalogue.create(f"timm/{name}")
        overlapping = sum(
            isinstance(module, nn.Conv2d) and module.kernel_size[0] > max(1, module.stride[0])
            for module in net.modules()
        )
        if catalogue.find(f"timm/{name}").convolutional:
            assert overlapping > 3, name
        token_networks += overlapping == 0
    assert token_networks > 10


def test_entries_say_what_is_published() -> None:
    import torchvision

    entry = catalogue.find("torchvision/resnet50")
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    assert entry.top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] == 80.858
    assert (entry.title, entry.family, entry.num_classes, entry.input_px) == ("ResNet-50", "ResNet", 1000, (224, 224))
    assert entry.download_mb == pytest.approx(97.8, abs=0.1)
    other = catalogue.find("torchvision/resnet50.IMAGENET1K_V1")
    assert other.top1 == 76.13
    assert other.title == "ResNet-50 (IMAGENET1K_V1)"
    lite = catalogue.find("timm/tf_efficientnet_lite1")
    assert (lite.title, lite.top1, lite.input_px) == ("EfficientNet-Lite1", 76.7, (240, 240))
    assert catalogue.find("timm/resnet50").top1 is None
    assert catalogue.find("timm/resnet50.fb_swsl_ig1b_ft_in1k").title == "ResNet-50 (fb_swsl_ig1b_ft_in1k)"
    assert catalogue.find("timm/convnext_tiny.in12k").num_classes == 11821


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("torchvision/vgg16_bn", "VGG-16 bn"),
        ("torchvision/densenet121", "DenseNet-121"),
        ("torchvision/squeezenet1_1", "SqueezeNet-1.1"),
        ("torchvision/regnet_x_1_6gf", "RegNet x 1.6gf"),
        ("timm/coatnet_0_224", "CoAtNet 0 224"),
        ("torchvision/inception_v3", "Inception-v3"),
        ("torchvision/mobilenet_v3_large", "MobileNetV3 large"),
        ("torchvision/wide_resnet50_2", "Wide ResNet-50 2"),
        ("timm/inception_resnet_v2", "Inception-ResNet-v2"),
        ("timm/legacy_seresnext50_32x4d", "legacy SE-ResNeXt-50 32x4d"),
        ("timm/tresnet_m", "TResNet m"),
        ("timm/rexnet_100", "rexnet 100"),
    ],
)
def test_titles_are_readable(name: str, title: str) -> None:
    assert catalogue.find(name).title == title


def test_the_default_weights_have_one_name() -> None:
    assert catalogue.find("timm/resnet18.a1_in1k").model_id == "timm/resnet18"
    assert catalogue.find("torchvision/resnet50.IMAGENET1K_V2").model_id == "torchvision/resnet50"
    assert catalogue.find("timm/resnet18.tv_in1k").model_id == "timm/resnet18.tv_in1k"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("resnet50", "resnet50"),
        ("ResNet-50", "resnet50"),
        ("efficientnet lite", "tf_efficientnet_lite0"),
        ("VGG 16", "vgg16"),
        ("torchvision googlenet", "googlenet"),
    ],
)
def test_search_matches_all_words_and_puts_short_names_first(text: str, first: str) -> None:
    found = catalogue.search(text, 5)
    assert found[0].model_id.partition("/")[2] == first
    assert 0 < len(found) <= 5


def test_search_without_words_or_matches() -> None:
    assert catalogue.search("", 3) == catalogue.entries()[:3]
    assert catalogue.search("no such network anywhere") == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("timm/resnet5O", "timm/resnet50"), ("resnet50", "timm/resnet50"), ("torchvision/vgg61", "vgg16")],
)
def test_unknown_names_come_with_near_ones(name: str, near: str) -> None:
    for function in (catalogue.find, catalogue.weights_place, catalogue.create, catalogue.preprocessing_config):
        with pytest.raises(UnknownModel, match=near):
            function(name)


def test_parameters_are_counted() -> None:
    for name in (SQUEEZENET, "torchvision/inception_v3", TINY, catalogue.DEFAULT_MODEL):
        assert catalogue.num_params(name) == sum(p.numel() for p in catalogue.create(name).parameters())
    assert catalogue.num_params("timm/resnet18") == 11_689_512


# --- preprocessing and classes ---


def test_preprocessing_is_what_the_libraries_use() -> None:
    import timm
    import torchvision

    for name in ("resnet50", "efficientnet_b0", "convnext_tiny.fb_in22k_ft_in1k_384", "inception_v3"):
        config = catalogue.preprocessing_config(f"timm/{name}")
        expected = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        assert (config["num_channels"], *config["input_px"]) == expected["input_size"]
        for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode"):
            assert config[key] == expected[key]  # type: ignore[literal-required]
    config = catalogue.preprocessing_config("torchvision/resnet50")
    assert config["interpolation"] == "bilinear"
    assert config["input_px"] == (224, 224)
    names = [entry.model_id for entry in catalogue.entries() if entry.model_id.startswith("torchvision/")]
    for name in names:
        config = catalogue.preprocessing_config(name)
        weights = torchvision.models.get_model_weights(name.partition("/")[2].partition(".")[0])
        transform = weights[name.partition(".")[2] or "DEFAULT"].transforms()
        assert math.floor(config["input_px"][0] / config["crop_pct"]) == transform.resize_size[0], name
        assert config["mean"] == tuple(transform.mean)


def test_class_names_are_short_and_unique() -> None:
    import torchvision

    names = catalogue.class_names(SQUEEZENET, 1000)
    assert names[285] == "Egyptian cat"
    assert names[0] == "tench"
    assert len({name.lower() for name in names}) == 1000
    assert names[134].startswith("crane (large long-necked")
    assert names[517].startswith("crane (lifts")
    assert names[639] == "maillot (tank suit)"
    # An independent list in the same order.
    categories = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]
    assert sum(ours.lower().startswith(theirs.lower()) for ours, theirs in zip(names, categories, strict=True)) > 980
    for size in (11821, 21841, 21842, 21843, 11221):
        larger = catalogue.class_names(SQUEEZENET, size)
        assert len({name.lower() for name in larger}) == size
    assert catalogue.class_names(SQUEEZENET, 10) == ()


# --- networks ---


def test_googlenet_is_built_without_warning_or_training_heads() -> None:
    for name in ("torchvision/googlenet", "torchvision/inception_v3"):
        net = catalogue.create(name, num_classes=7, init_weights=False).eval()
        assert not any("aux" in part.lower() for part, _ in net.named_modules())
        assert net(torch.zeros(1, 3, 299, 299)).shape == (1, 7)
        assert net.transform_input


def test_inceptions_training_head_is_left_out() -> None:
    with torch.device("meta"):
        published = catalogue.create("torchvision/inception_v3", aux_logits=True).state_dict()
        expected = catalogue.create("torchvision/inception_v3").state_dict()
    assert published.keys() > expected.keys()
    assert catalogue._current_names("inception_v3", published).keys() == expected.keys()


def test_the_number_of_classes_can_be_chosen() -> None:
    for name in (SQUEEZENET, TINY):
        assert catalogue.create(name, num_classes=5).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 5)


def test_networks_for_other_input_sizes_are_built_for_them() -> None:
    with torch.device("meta"):
        net = catalogue.create("torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1")
    assert net.image_size == 384


@pytest.mark.parametrize("name", list(catalogue.BUNDLED))
def test_bundled_weights_keep_each_tensors_role(name: str) -> None:
    before = set(sys.modules)
    net = catalogue.create_pretrained(name)
    assert catalogue.BUNDLED[name].package not in set(sys.modules) - before
    file = catalogue._bundled_file(name)
    assert file is not None
    original = torch.load(file, weights_only=True)
    loaded = net.state_dict()
    assert len(loaded) == len(original)
    for (ours, tensor), (theirs, source) in zip(loaded.items(), original.items(), strict=True):
        assert ours.rpartition(".")[2] == theirs.rpartition(".")[2]
        assert torch.equal(tensor, source)


def test_the_default_network_knows_cat_and_coffee() -> None:
    net = catalogue.create_pretrained(catalogue.DEFAULT_MODEL).eval()
    names = catalogue.class_names(catalogue.DEFAULT_MODEL, 1000)
    cat = _probabilities(net, skimage.data.chelsea())
    assert {names[i] for i in cat.topk(3).indices} == {"Egyptian cat", "tiger cat", "tabby"}
    assert names[int(cat.argmax())] == "Egyptian cat"
    assert cat[names.index("Egyptian cat")] == pytest.approx(0.39, abs=0.01)
    assert _probabilities(net, skimage.data.coffee())[names.index("espresso")] > 0.9


def _probabilities(net: nn.Module, pixels: object) -> torch.Tensor:
    import timm

    config = catalogue.preprocessing_config(catalogue.DEFAULT_MODEL)
    transform = timm.data.create_transform(
        (3, *config["input_px"]),
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
    )
    with torch.no_grad():
        return net(transform(Image.fromarray(pixels))[None]).softmax(1)[0]


def test_weights_of_another_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = catalogue.BUNDLED["timm/tf_efficientnet_lite1"]
    monkeypatch.setattr(catalogue, "BUNDLED", {catalogue.DEFAULT_MODEL: other})
    with pytest.raises(WeightsUnavailable, match="Reinstall the package efficientnet_lite1"):
        catalogue.create_pretrained(catalogue.DEFAULT_MODEL)


def test_without_the_package_the_weights_are_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = catalogue.Bundled("no_such_package", "X", 1.0)
    monkeypatch.setattr(catalogue, "BUNDLED", {catalogue.DEFAULT_MODEL: missing})
    assert catalogue.weights_place(catalogue.DEFAULT_MODEL) is WeightsPlace.REMOTE
    with pytest.raises(WeightsUnavailable, match="not on this machine"):
        catalogue.create_pretrained(catalogue.DEFAULT_MODEL)


def _published_form(name: str) -> dict[str, torch.Tensor]:
    """Random weights under the names that torchvision's published file of that network has."""
    import torchvision

    options = {"init_weights": False} if name == "googlenet" else {}
    state = torchvision.models.get_model(name, weights=None, **options).state_dict()
    if name.startswith("densenet"):
        old = {re.sub(r"(denselayer\d+\.(norm|conv))(\d)", r"\1.\3", key): value for key, value in state.items()}
        return {key: value for key, value in old.items() if "num_batches" not in key}
    return state


@pytest.mark.parametrize("name", ["squeezenet1_1", "densenet121", "googlenet", "mnasnet0_5"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_local_torchvision_weights_load_as_torchvision_loads_them(tmp_path: Path, name: str) -> None:
    import torchvision

    model_id = f"torchvision/{name}"
    assert catalogue.weights_place(model_id) is WeightsPlace.REMOTE
    file = checkpoints_folder(tmp_path) / url_of(model_id).rpartition("/")[2]
    torch.save(_published_form(name), file)
    assert catalogue.weights_place(model_id) is WeightsPlace.LOCAL
    ours = catalogue.create_pretrained(model_id).eval()
    theirs = torchvision.models.get_model(name, weights="DEFAULT").eval()
    expected = theirs.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_local_timm_weights_load_as_timm_loads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import timm

    assert catalogue.weights_place(TINY) is WeightsPlace.REMOTE
    state = timm.create_model("test_resnet").state_dict()
    hub_id = catalogue._lookup(TINY).hub_id
    file = put_in_hub_cache(tmp_path, hub_id, name, save(state))
    if name.endswith(".bin"):
        torch.save(state, file)
    assert catalogue.weights_place(TINY) is WeightsPlace.LOCAL
    net = catalogue.create_pretrained(TINY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    oracle = timm.create_model("test_resnet", pretrained=True, cache_dir=tmp_path / "huggingface")
    assert holds(net, oracle.state_dict())
    assert holds(net, state)


def test_timm_weights_in_the_torch_folder_count_too(tmp_path: Path) -> None:
    url = url_of("timm/resnet18.gluon_in1k")
    assert url
    state = catalogue.create("timm/resnet18.gluon_in1k").state_dict()
    torch.save(state, checkpoints_folder(tmp_path) / url.rpartition("/")[2])
    assert catalogue.weights_place("timm/resnet18.gluon_in1k") is WeightsPlace.LOCAL
    net = catalogue.create_pretrained("timm/resnet18.gluon_in1k")
    assert holds(net, state)


def test_places_are_looked_up_anew(tmp_path: Path) -> None:
    assert not any(entry.weights is WeightsPlace.LOCAL for entry in catalogue.entries())
    file = checkpoints_folder(tmp_path) / url_of(SQUEEZENET).rpartition("/")[2]
    file.write_bytes(b"anything")
    put_in_hub_cache(tmp_path, catalogue._lookup(TINY).hub_id, "model.safetensors", b"anything")
    local = {entry.model_id for entry in catalogue.entries() if entry.weights is WeightsPlace.LOCAL}
    assert local == {SQUEEZENET, TINY}
    assert catalogue.search("squeezenet")[0].ready
    file.unlink()
    assert catalogue.find(SQUEEZENET).weights is WeightsPlace.REMOTE


def test_code_in_cached_weights_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save(Evil(marker), checkpoints_folder(tmp_path) / url_of(SQUEEZENET).rpartition("/")[2])
    torch.save(Evil(marker), put_in_hub_cache(tmp_path, catalogue._lookup(TINY).hub_id, "pytorch_model.bin", b""))
    with pytest.raises(WeightsUnavailable, match=r"Delete .*squeezenet1_1-b8a52dc0\.pth"):
        catalogue.create_pretrained(SQUEEZENET)
    with pytest.raises(WeightsUnavailable, match=r"Delete .*models--timm--test_resnet\.r160_in1k and"):
        catalogue.create_pretrained(TINY)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02 cut", b"text"])
def test_damaged_cached_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    (checkpoints_folder(tmp_path) / url_of(SQUEEZENET).rpartition("/")[2]).write_bytes(content)
    put_in_hub_cache(tmp_path, catalogue._lookup(TINY).hub_id, "model.safetensors", content)
    for name in (SQUEEZENET, TINY):
        with pytest.raises(WeightsUnavailable, match="cannot be read"):
            catalogue.create_pretrained(name)


# --- downloading ---


@dataclass
class Server:
    """What a small server on this machine answers with, and what it was asked."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    missing_bytes: int = 0
    delay_seconds: float = 0.0
    status: int = 404
    with_length: bool = True
    requests: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            state.requests.append(f"{self.command} {self.path}")
            time.sleep(state.delay_seconds)
            content = state.files.get(self.path)
            self.send_response(state.status if content is None else 200)
            for name, value in state.headers.get(self.path, {}).items():
                self.send_header(name, value)
            if state.with_length:
                self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if with_body and content:
                with contextlib.suppress(ConnectionError):  # a cancelled download hangs up
                    self.wfile.write(content[: len(content) - state.missing_bytes])

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bytes]:
    """Publishes random SqueezeNet weights on the local server, under the path given or one with their checksum."""
    content = _squeezenet_file()

    def publish(path: str = "") -> bytes:
        path = path or f"/models/squeezenet1_1-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        server.files[path] = content
        known = replace(catalogue._lookup(SQUEEZENET), url=server.url(path))
        monkeypatch.setattr(catalogue, "_lookup", lambda _: known)
        return content

    return publish


def _squeezenet_file() -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(catalogue.create(SQUEEZENET).state_dict(), buffer)
    return buffer.getvalue()


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_download_arrives_whole_with_progress(
    tmp_path: Path, server: Server, published: Callable[[str], bytes]
) -> None:
    content = published("")
    steps: list[tuple[int, int | None]] = []
    catalogue.download(SQUEEZENET, on_step=lambda done, total: steps.append((done, total)))
    (file,) = checkpoints_folder(tmp_path).iterdir()
    assert file.read_bytes() == content
    assert steps[0] == (0, len(content))
    assert steps[-1] == (len(content), len(content))
    assert steps == sorted(steps)
    assert len(steps) > 5
    assert catalogue.weights_place(SQUEEZENET) is WeightsPlace.LOCAL
    catalogue.create_pretrained(SQUEEZENET)
    catalogue.download(SQUEEZENET)
    assert len(server.requests) == 1


def test_a_download_of_unknown_size(tmp_path: Path, server: Server, published: Callable[[str], bytes]) -> None:
    server.with_length = False
    content = published("")
    steps: list[tuple[int, int | None]] = []
    catalogue.download(SQUEEZENET, on_step=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (len(content), None)
    assert catalogue.weights_place(SQUEEZENET) is WeightsPlace.LOCAL


class Cancelled(BaseException):
    """As Streamlit's own interruption, not an Exception."""


def test_a_download_can_be_cancelled(tmp_path: Path, published: Callable[[str], bytes]) -> None:
    published("")

    def cancel(done: int, total: int | None) -> None:
        if done > 1_000_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        catalogue.download(SQUEEZENET, on_step=cancel)
    assert files_below(tmp_path / "torch") == []


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("checksum", "does not have the published checksum"),
        ("missing", "answered with error 404"),
        ("down", "answered with error 503"),
        ("cut", "broke off"),
        ("slow", "did not answer within"),
        ("refused", "no connection to 127.0.0.1"),
        ("nowhere", "the address of nowhere.invalid was not found"),
        ("full", "the disk is full"),
        ("no folder", "exists"),
    ],
)
def test_a_failed_download_says_why_and_what_to_do(
    tmp_path: Path,
    server: Server,
    published: Callable[[str], bytes],
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    said: str,
) -> None:
    published("/models/squeezenet1_1-00000000.pth" if trouble == "checksum" else "")
    if trouble in ("missing", "down"):
        server.files.clear()
        server.status = 404 if trouble == "missing" else 503
    elif trouble == "cut":
        server.missing_bytes = 1000
    elif trouble == "slow":
        monkeypatch.setattr(catalogue, "TIMEOUT_SECONDS", 0.1)
        server.delay_seconds = 0.5
    elif trouble in ("refused", "nowhere"):
        host = "127.0.0.1:9" if trouble == "refused" else "nowhere.invalid"
        known = replace(catalogue._lookup(SQUEEZENET), url=f"http://{host}/squeezenet1_1-00000000.pth")
        monkeypatch.setattr(catalogue, "_lookup", lambda _: known)
    elif trouble == "full":
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    elif trouble == "no folder":
        (tmp_path / "torch" / "hub").mkdir(parents=True)
        (tmp_path / "torch" / "hub" / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(WeightsUnavailable, match=said) as caught:
        catalogue.download(SQUEEZENET)
    for part in (
        "SqueezeNet",
        "Connect this machine to the internet",
        "squeezenet1_1-",
        "untrained weights",
        "offline",
    ):
        assert part in str(caught.value)
    assert not [name for name in files_below(tmp_path / "torch") if name != "checkpoints"]


def test_nothing_is_fetched_for_bundled_weights_and_nothing_exists_for_others(server: Server) -> None:
    catalogue.download(catalogue.DEFAULT_MODEL)
    assert catalogue.find("timm/botnet50ts_256").weights is WeightsPlace.NONE
    with pytest.raises(WeightsUnavailable, match="No trained weights are published"):
        catalogue.download("timm/botnet50ts_256")
    with pytest.raises(WeightsUnavailable, match="No trained weights are published"):
        catalogue.create_pretrained("timm/botnet50ts_256")
    assert server.requests == []


def test_every_torchvision_file_has_a_checksum_in_its_name() -> None:
    urls = [known.url for name, known in catalogue._published()[0].items() if name.startswith("torchvision/")]
    assert all(re.search(r"-[0-9a-f]{8,}\.", url.rpartition("/")[2]) for url in urls)


def _publish_on_hub(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, etag: str = "") -> bytes:
    """Makes the local server a Hugging Face hub with the tiny network's weights."""
    content = save(catalogue.create(TINY).state_dict())
    path = f"/{catalogue._lookup(TINY).hub_id}/resolve/main/{name}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url(""))
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url("/{repo_id}/resolve/{revision}/{filename}")
    )
    server.files[path] = content
    server.headers[path] = {"ETag": f'"{etag or hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
    for other in ("model.safetensors", "pytorch_model.bin"):
        missing = f"/{catalogue._lookup(TINY).hub_id}/resolve/main/{other}"
        server.headers.setdefault(missing, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
    return content


def test_a_hub_download_arrives_where_timm_looks(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _publish_on_hub(server, monkeypatch, "model.safetensors")
    steps: list[tuple[int, int | None]] = []
    catalogue.download(TINY, on_step=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (len(content), len(content))
    hub_id = catalogue._lookup(TINY).hub_id
    file = huggingface_hub.hf_hub_download(
        hub_id, "model.safetensors", cache_dir=tmp_path / "huggingface", local_files_only=True
    )
    assert Path(file).read_bytes() == content
    assert sum(request.startswith("GET") for request in server.requests) == 1
    assert catalogue.find(TINY).weights is WeightsPlace.LOCAL
    catalogue.create_pretrained(TINY)
    asked = len(server.requests)
    catalogue.download(TINY)
    assert len(server.requests) == asked


def test_the_hub_may_have_the_older_file_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish_on_hub(server, monkeypatch, "pytorch_model.bin")
    catalogue.download(TINY)
    assert catalogue.find(TINY).weights is WeightsPlace.LOCAL


def test_a_hub_download_can_be_cancelled(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish_on_hub(server, monkeypatch, "model.safetensors")

    def cancel(done: int, total: int | None) -> None:
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        catalogue.download(TINY, on_step=cancel)
    assert files_below(tmp_path / "huggingface") == []
    assert catalogue.find(TINY).weights is WeightsPlace.REMOTE


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("checksum", "does not have the published checksum"),
        ("none there", "has no weights file"),
        ("odd name", "has no weights file"),
        ("down", "answered with error 503"),
        ("slow", "the Hugging Face hub did not answer within"),
        ("refused", "no connection to the Hugging Face hub"),
        ("offline", "HF_HUB_OFFLINE"),
    ],
)
def test_a_failed_hub_download_says_why_and_what_to_do(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, trouble: str, said: str
) -> None:
    if trouble != "refused":
        etags = {"checksum": "0" * 64, "odd name": "../../../elsewhere"}
        _publish_on_hub(server, monkeypatch, "model.safetensors", etags.get(trouble, ""))
    if trouble == "none there":
        (path,) = server.files
        server.files.clear()
        server.headers[path] = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
    elif trouble == "down":
        server.files.clear()
        server.headers.clear()
        server.status = 503
    elif trouble == "slow":
        monkeypatch.setattr(catalogue, "TIMEOUT_SECONDS", 0.1)
        server.delay_seconds = 0.5
    elif trouble == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match=said) as caught:
        catalogue.download(TINY)
    for part in ("copy the folder models--timm--test_resnet.r160_in1k", "untrained weights", "Connect"):
        assert part in str(caught.value)
    assert not [name for name in files_below(tmp_path / "huggingface") if name.endswith((".part", ".safetensors"))]
