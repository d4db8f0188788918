"""Thousands of files and links that mean harm: none may crash, none may touch anything outside the data folder.

``python tests/benchmarks/fuzz.py [CASES] [SEED]`` spreads that many cases over all doors through which bytes and texts
come in, and prints how many each took, how many it refused with a sentence, and what went wrong. A case goes wrong by
an error other than the foreseen ones, by a sentence that no page could show, by taking too long or too much memory, or
by any change outside the data folder. ``tests/test_fuzz.py`` runs a small share of it.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cnnviz_core import checkpoints, images, job_records, links, manifest, reports, result_files, settings, store
from cnnviz_core.collections import indexing, projections, scan, sources
from cnnviz_core.errors import CnnvizError
from cnnviz_core.ui import frame

_MAX_MB = 4
_SLOW_SECONDS = 10.0
_GROWN_MB = 1500
_TRAP = "sprung"


class Harm(AssertionError):
    """A case that did what none may do."""


# ---- what is mutated -------------------------------------------------------------------------------------------------

# Texts that somewhere mean more than themselves.
TEXTS = (
    "../../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/passwd", "C:\\boot.ini", "file:///etc/passwd", "~root",
    "a/../../b", "....//....//x", "%2e%2e%2f", "a\0b", "a\nb", "\u202egnp.exe", "\ud800", "\U0010ffff", "NaN", "inf",
    "-1", "1e999", "9" * 5000, "٣", "²", "-0", "0x10", "", " ", "null", "true", "[]", "{}", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "javascript:alert(1)", "[x](javascript:alert(1))", "![x](http://198.51.100.1/x)",
    "**b** _i_ `c` $x$ :red[r] ~s~ #h", "{{7*7}}", "${7*7}", "%s%s%n", "'; DROP TABLE files; --", "x" * 100_000,
    "con", "aux.png", ".", "..", "...", "-rf", "\ufeff", "é" * 300, "a" * 255, "~".join(["1"] * 500), "0~1.1~" * 99,
)  # fmt: skip


def _png(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


def _pictures() -> list[bytes]:
    """A small picture in each format."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    found = []
    for kind, options in (
        ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {}), ("BMP", {}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_deflate"}),
    ):  # fmt: skip
        file = io.BytesIO()
        _png(pixels).save(file, kind, **options)
        found.append(file.getvalue())
    return found


def _zip(entries: dict[str, bytes], *, packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def _state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layer{i}.weight": torch.randn(3, 4, generator=generator) for i in range(3)}


def _saved(content: object, *, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The bytes with some of them changed, taken out, repeated or put elsewhere."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8, 30))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del data[at : at + rng.choice((1, 4, 100))]
            case 3:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 60)))
            case 4:
                data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice((0, 2**16, 2**31 - 1, 2**32 - 1)))
            case 5:
                del data[at:]
            case 6:
                data[at:at] = data[max(0, at - 200) : at]
            case _:
                data[at : at + 8] = struct.pack("<Q", rng.choice((0, 2**33, 2**62, 2**64 - 1)))
    return bytes(data)


def odd_json(rng: random.Random, depth: int = 0) -> object:
    """Any JSON value, now and then a hostile one."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind < 3:
        return rng.choice(TEXTS)[:6000]
    if kind < 6:
        return rng.choice((None, True, False, 0, -1, 2**63, 10**400, 1e308, float("nan"), float("inf"), 0.5))
    if kind < 7:
        return [odd_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS)[:100]: odd_json(rng, depth + 1) for _ in range(rng.randrange(4))}


def altered_json(value: object, rng: random.Random) -> object:
    """A JSON value with one part of it replaced by something else."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        if rng.random() < 0.1:
            return {other: part for other, part in value.items() if other != name}
        return {**value, name: altered_json(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], altered_json(value[at], rng), *value[at + 1 :]]
    return odd_json(rng)


def written_json(value: object, rng: random.Random) -> bytes:
    """JSON as a file has it, sometimes broken, sometimes nested beyond measure."""
    if rng.random() < 0.03:
        return b"[" * 100_000
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutated(text, rng) if rng.random() < 0.3 else text


# ---- doors -----------------------------------------------------------------------------------------------------------


@dataclass
class Place:
    """Where the cases of a run happen.

    Attributes:
        folder: All that may be looked at; only its part ``data`` may change.
        pictures: A whole picture in each format.
        states: Whole weights files of torch, with and without ZIP.
    """

    folder: Path
    pictures: list[bytes] = field(default_factory=_pictures)
    states: list[bytes] = field(default_factory=lambda: [_saved(_state(), zipped=zipped) for zipped in (True, False)])

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def upload(self) -> Path:
        """Where a file that somebody brings lies for a moment."""
        return self.data / "upload.bin"


def picture(rng: random.Random, place: Place) -> None:
    """A file that says it is a picture: damaged, glued to others, or something else under a picture's first bytes."""
    content = rng.choice(place.pictures)
    match rng.randrange(6):
        case 0:
            content = content + rng.choice((*place.pictures, b"<svg onload=alert(1)>", b"PK\x03\x04" + bytes(30)))
        case 1:
            content = content[: rng.choice((2, 4, 8, 12, 64))] + rng.randbytes(rng.randrange(400))
        case 2:
            content = rng.choice((b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html><script>", b"GIF89a/*", b"BM"))
        case _:
            content = mutated(content, rng)
    name = rng.choice(TEXTS)
    match rng.randrange(3):
        case 0:
            store.save_picture(images.open_image(content, name=name))
        case 1:
            images.measure(io.BytesIO(content), name=name)
        case _:
            images.open_reduced(content, name=name, size=lambda height, width: (height // 4 or 1, width // 4 or 1))


def safetensors_file(rng: random.Random, place: Place) -> None:
    """A header that lies, names that mean more than themselves, or broken bytes."""
    data = bytes(48)
    header: object = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        rng.choice(TEXTS)[:200]: {"dtype": "F32", "shape": [4], "data_offsets": [32, 48]},
    }
    if rng.random() < 0.7:
        header = altered_json(header, rng)
    text = written_json(header, rng)
    length = len(text) if rng.random() < 0.8 else rng.choice((0, 1, 2**31, 2**62, 2**64 - 1))
    content = struct.pack("<Q", length) + text + data[: rng.choice((48, 48, 48, 40, 0))]
    place.upload.write_bytes(content)
    _looked_at(place.upload)


def weights_file(rng: random.Random, place: Place) -> None:
    """A damaged file of torch, or one whose pickle says something else."""
    if rng.random() < 0.6:
        content = mutated(rng.choice(place.states), rng)
    else:
        program = _program(rng, place)
        if rng.random() < 0.7:
            entries = {"a/data.pkl": program, "a/version": b"3\n", "a/data/0": bytes(48), "a/byteorder": b"little"}
            content = _zip(entries, packing=rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
        else:
            content = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})) + program
    place.upload.write_bytes(content)
    _looked_at(place.upload)


def _program(rng: random.Random, place: Place) -> bytes:
    """A pickle put together from operations that reach for everything there is."""
    trap = str(place.folder / _TRAP).encode()
    parts = (
        b"cos\nsystem\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nbytearray\n", b"cbuiltins\nset\n",
        b"ccollections\nOrderedDict\n", b"ctorch\nTensor\n", b"ctorch\nSize\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n", b"c_codecs\nencode\n", b"ctorch\nFloatStorage\n", b"ctorch\nload\n",
        b"X" + struct.pack("<I", len(trap) + 6) + b"mkdir " + trap, b"X\x01\x00\x00\x00w", b"K\x07", b"M\xff\xff",
        b"J\xff\xff\xff\x7f", b"\x8a\x05\xff\xff\xff\xff\x7f", b"G" + struct.pack(">d", 1e308), b"N", b"\x88", b")",
        b"]", b"}", b"(", b"t", b"\x85", b"\x86", b"\x87", b"R", b"R", b"b", b"\x81", b"s", b"u", b"a", b"e", b"q\x01",
        b"h\x01", b"q\x02", b"h\x02", b"h\x01h\x01\x86q\x01", b"Q", b"0", b"2", b"\x93", b"\x8c\x03abc",
    )  # fmt: skip
    start = rng.choice(
        (b"}", b"}X\x01\x00\x00\x00w", b"", b"(", b")q\x01" + b"h\x01h\x01\x86q\x01" * 40 + b"}h\x01K\x01s")
    )
    return b"\x80\x02" + start + b"".join(rng.choice(parts) for _ in range(rng.randrange(1, 40))) + b"."


def _looked_at(path: Path) -> None:
    """All that happens to a weights file before a network has it."""
    state = checkpoints.read_state_dict(path, max_mb=_MAX_MB)
    checkpoints.count_non_finite(state)
    matched = checkpoints.match(state, {"layer0.weight": (3, 4), "fc.weight": (5, 3)})
    _shown(matched.report())


def class_list(rng: random.Random, _place: Place) -> None:
    """Class names that are no list, or names that no page could show."""
    value = odd_json(rng) if rng.random() < 0.5 else {str(rng.choice(TEXTS))[:6000]: rng.randrange(3)}
    content = written_json(value, rng) if rng.random() < 0.7 else rng.randbytes(rng.randrange(200))
    for name in checkpoints.read_class_names(content):
        _shown(name)


def zip_upload(rng: random.Random, place: Place) -> None:
    """A ZIP whose entries would like to lie elsewhere, or that is damaged."""
    entries = {
        f"{rng.choice(TEXTS)[:300]}{rng.choice(('', '/'))}{rng.choice(TEXTS)[:200]}.png".encode(
            "utf-8", "replace"
        ).decode(): mutated(rng.choice(place.pictures), rng) if rng.random() < 0.5 else rng.choice(place.pictures)
        for _ in range(rng.randrange(1, 6))
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of equal names
        content = _zip(entries)
    if rng.random() < 0.5:
        content = mutated(content, rng)
    added = sources.unpack_zip(io.BytesIO(content), name=rng.choice(TEXTS)[:300])
    for text in (added.title, *added.notes):
        _shown(text)
    home = sources.home(added.collection_id)
    scan.scan(home / "files", home / "listing.sqlite")
    for found in scan.pictures(home / "listing.sqlite"):
        _shown(found.path)
        images.open_image(scan.path_inside(home / "files", found.path))
    sources.delete(added.collection_id)


_RESULT = result_files.encode({"values": np.arange(6.0), "names": ("a", "b"), "more": [1, 2.5, None, b"xy"]})


def result_file(rng: random.Random, _place: Place) -> None:
    """A kept result that was damaged, or written by somebody else with a checksum that fits."""
    content = _RESULT
    if rng.random() < 0.5:
        content = mutated(content, rng) if rng.random() < 0.9 else content
    else:
        import hashlib

        body = io.BytesIO()
        tree = written_json(altered_json({"mapping": [["a", {"array": "a0"}]]}, rng), rng)
        if rng.random() < 0.3:
            tree = json.dumps({"class": f"cnnviz_core.{rng.choice(TEXTS)[:50]}:Record", "fields": {}}).encode()
        np.savez(body, tree=np.frombuffer(tree, np.uint8), a0=np.arange(3))
        whole = body.getvalue() if rng.random() < 0.7 else mutated(body.getvalue(), rng)
        magic = content[: content.index(b"\n") + 1]
        content = magic + hashlib.blake2b(whole, digest_size=16).digest() + whole
    try:
        result_files.decode(content)
    except result_files.Damaged:
        raise CnnvizError("damaged") from None


def data_files(rng: random.Random, place: Place) -> None:
    """Cards and records in the data folder that say something else than they should."""
    records = job_records.Records(place.data / "jobs", results_mb=10)
    card = store.Card("checkpoint/a-0123456789abcdef", "a.pth", "timm/resnet18", "a.pth", ("cat",))
    whole = {
        place.data / "checkpoints" / "a-0123456789abcdef" / "card.json": asdict(card),
        place.data / "collections" / "zip-a" / "card.json": {"title": "a", "num_pictures": 3, "notes": []},
        place.data / "collections" / "folder-a" / "card.json": {"title": "a", "folder": str(place.folder / "outside")},
        place.data / "jobs" / f"{'0' * 32}.json": asdict(
            job_records.Record(
                "0" * 32, "1" * 32, "Occlusion", job_records.State.DONE, ("ada",), "pages/a.py", {}, {}, "2" * 16, 1.0
            )
        ),
    }
    path = rng.choice(list(whole))
    path.parent.mkdir(parents=True, exist_ok=True)
    (place.data / "collections" / "zip-a" / "files").mkdir(parents=True, exist_ok=True)
    path.write_bytes(written_json(altered_json(whole[path], rng), rng))
    try:
        store.checkpoints()
        sources.added()
        sources.opened_folders()
        records.all()
    finally:
        path.unlink()


def arrays_file(rng: random.Random, place: Place) -> None:
    """A shard's record or a kept map that was damaged."""
    body = io.BytesIO()
    about = json.dumps({"name": "map", "layer": "a", "network": "n", "asked": {}, "settings": {}, "method": "pca"})
    texts = {name: np.array(["a"]) for name in ("paths", "digests", "bad_paths", "bad_digests", "bad_reasons")}
    np.savez(body, first_row=np.array(0), about=np.array(about), values=np.zeros((2, 2)), **texts)
    folder = indexing.folder_of("zip/a") / "projections"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "0.npz"
    path.write_bytes(mutated(body.getvalue(), rng))
    try:
        indexing._Record.read(path)
        projections.kept("zip/a", network="n")
    finally:
        path.unlink()


def link(rng: random.Random, place: Place) -> None:
    """What a link names: an uploaded picture, a checkpoint, a collection, a folder, a picture in a collection."""
    text = rng.choice(TEXTS)
    if rng.random() < 0.3:
        text = rng.choice(("checkpoint/", "zip/", "folder/", "bundled/", "torchvision/", "timm/")) + text
    if rng.random() < 0.2:
        text = mutated(text.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "replace")
    doors: tuple[Callable[[], object], ...] = (
        lambda: store.open_picture(text),
        lambda: store.note_picture_use(text),
        lambda: store.checkpoint(text),
        lambda: store.delete_checkpoint(text),
        lambda: sources.home(text),
        lambda: sources.locate(text),
        lambda: sources.delete(text),
        lambda: sources.folder_below_roots(text),
        lambda: images.open_image(scan.path_inside(place.data, text)) and None,
    )
    found = rng.choice(doors)()
    if isinstance(found, Path) and not found.is_relative_to(place.folder):
        raise Harm(f"{text!r} leads to {found}")


def address(rng: random.Random, _place: Place) -> None:
    """What somebody pastes as a link to a screen."""
    text = rng.choice(("", "http://", "https://a/", "/", "//", "javascript:", "http://[", "file:///"))
    text += "&".join(f"{rng.choice(TEXTS)[:5000]}={rng.choice(TEXTS)[:5000]}" for _ in range(rng.randrange(4)))
    text = rng.choice((text, f"https://a/cam?{text}", f"/cam?model={rng.choice(TEXTS)}", rng.choice(TEXTS)))
    found = links.parse(text)
    _shown(found.address())


def manifest_file(rng: random.Random, _place: Place) -> None:
    """A dropped manifest that nobody's cnnviz has written."""
    account = {
        "link": {"page": "cam", "parameters": {"model": ["timm/resnet18"], "target": "3"}},
        "versions": {"torch": "2.13.0", "numpy": "2"},
    }
    origin = manifest.read(written_json(altered_json(account, rng), rng))
    _shown(origin.link.address())
    for text in origin.changed:
        _shown(frame.plain(text))


def report_file(rng: random.Random, place: Place) -> None:
    """A list of a report that was damaged, or that says something else."""
    person = "guest-0123456789abcdef"
    folder = place.data / "reports" / person
    folder.mkdir(parents=True, exist_ok=True)
    entry = reports.Entry("0123456789abcdef", "A figure", settings={"a": "b"}, page="cam", params={"x": ["1"]})
    (folder / "0123456789abcdef.png").write_bytes(place.pictures[0])
    whole = {"title": "mine", "entries": [asdict(entry), asdict(entry)]}
    (folder / "report.json").write_bytes(written_json(altered_json(whole, rng), rng))
    reports.load(person)
    written = reports.export(person)
    for mark in ("<script>alert", "<img src=x", 'javascript:alert(1)"'):
        if mark in written:
            raise Harm(f"{mark} in an exported report")


DOORS: dict[str, Callable[[random.Random, Place], None]] = {
    door.__name__: door
    for door in (
        picture, safetensors_file, weights_file, class_list, zip_upload, result_file, data_files, arrays_file, link,
        address, manifest_file, report_file,
    )
}  # fmt: skip


# ---- what none may do ------------------------------------------------------------------------------------------------


def _shown(text: str) -> None:
    """As a page would send it to the browser."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Harm(f"No page can show {text[:40]!r}.") from error


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything that lies below a folder but for the data folder, with sizes and times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if (folder / "data") not in (path, *path.parents):
            status = path.lstat()
            found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


@contextmanager
def playground() -> Iterator[Place]:
    """A data folder beside files that must stay as they are."""
    with tempfile.TemporaryDirectory() as raw:
        folder = Path(raw).resolve()
        (folder / "outside").mkdir()
        (folder / "outside" / "secret.png").write_bytes(_pictures()[0])
        (folder / "data").mkdir()
        chosen = settings.Settings(
            data_dir=folder / "data", max_image_megapixels=5, collection_roots=(folder / "outside",), max_zip_mb=8
        )
        before, current = _listing(folder), settings.current
        settings.current = lambda: chosen  # type: ignore[assignment]
        try:
            yield Place(folder)
        finally:
            settings.current = current
        if _listing(folder) != before:
            raise Harm(f"Outside the data folder there is something else now: {set(_listing(folder)) ^ set(before)}")


@dataclass
class Report:
    """What became of a run.

    Attributes:
        counts: For door and outcome, "taken" or "refused", the number of cases.
        harms: For each case that went wrong door, seed and what happened.
        slowest: Seconds and door of the case that took longest.
        grown_mb: By how much the most memory that the process ever had has grown.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    harms: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    grown_mb: float = 0.0


def run(cases: int, seed: int, place: Place) -> Report:
    """Sends so many cases, in turns, through all doors."""
    report = Report()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = list(DOORS)
    for number in range(cases):
        name = names[number % len(names)]
        one(name, seed * 1_000_000 + number, place, report)
    report.grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if report.grown_mb > _GROWN_MB:
        report.harms.append(f"memory grew by {report.grown_mb:.0f} MB")
    if (place.folder / _TRAP).exists():
        report.harms.append("code of a file was run")
    return report


def one(name: str, seed: int, place: Place, report: Report) -> None:
    """One case; what it does is added to the report."""
    start = time.perf_counter()
    outcome = "taken"
    try:
        DOORS[name](random.Random(seed), place)
    except CnnvizError as error:
        outcome = "refused"
        try:
            _shown(frame.plain(str(error)))
        except Harm as harm:
            report.harms.append(f"{name} {seed}: {harm}")
    except Exception as error:  # anything else is what this is looking for
        where = traceback.extract_tb(error.__traceback__)[-1]
        place_in_code = f"{Path(where.filename).name}:{where.lineno}"
        report.harms.append(f"{name} {seed}: {type(error).__name__}: {error} ({place_in_code})"[-400:])
    seconds = time.perf_counter() - start
    if seconds > _SLOW_SECONDS:
        report.harms.append(f"{name} {seed}: took {seconds:.1f} s")
    report.slowest = max(report.slowest, (seconds, f"{name} {seed}"))
    report.counts[name, outcome] += 1


def main() -> None:
    """Prints a line for each door, then what went wrong."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    with playground() as place:
        report = run(cases, seed, place)
    for name in DOORS:
        print(f"{name:18} {report.counts[name, 'taken']:6} taken {report.counts[name, 'refused']:6} refused")
    print(
        f"{cases} cases in {time.perf_counter() - start:.0f} s, slowest {report.slowest[0]:.2f} s "
        f"({report.slowest[1]}), memory +{report.grown_mb:.0f} MB, {len(report.harms)} went wrong"
    )
    for harm in report.harms[:40]:
        print("  ", harm)
    raise SystemExit(bool(report.harms))


if __name__ == "__main__":
    main()
