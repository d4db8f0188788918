"""The import arrows and naming rules of the package map, read off the source with ``ast``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cnnviz_core"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted((ROOT / "pages").rglob("*.py"))

# A module imports only from the lines above its own. A new module gets its place here, in the package map and nowhere
# else. "methods", "render" and "ui" stand for all modules inside them.
LEVELS = (
    {"pickle_check"},
    {
        "errors",
        "journal",
        "machine",
        "numerals",
        "pace",
        "parametrization",
        "robustness",
        "roles",
        "torchvision_shim",
        "receptive_field",
        "turns",
        "weight_order",
    },
    {"winograd", "settings", "results", "maps", "startup", "catalogue", "checkpoints", "html_report", "links"},
    {"cka", "cli", "images"},
    {"convolution", "photos", "preprocessing", "store", "render"},
    {"probe", "manifest", "masks", "stereo", "result_files"},
    {"folding", "incremental", "layers", "job_records", "reports"},
    {"anatomy", "dilation", "jobs", "objectives", "tail"},
    {"models"},
    {"ascent", "doctor", "model_shelf", "pairs", "trainable"},
    {"collections", "features", "picture_gradients", "synthesis"},
    {"training_settings"},
    {"mask_transfer", "training", "upkeep", "visual_study"},
    {"methods"},
    {"ui"},
)
HOOKS_AND_MODES = {
    "TorchFunctionMode",
    "TorchDispatchMode",
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "register_backward_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_hook",
    "saved_tensors_hooks",
}
# Calls that change what other threads see.
PROCESS_WIDE = {
    "torch.manual_seed",
    "torch.seed",
    "torch.set_grad_enabled",
    "torch.set_default_dtype",
    "torch.use_deterministic_algorithms",
    "np.random.seed",
    "random.seed",
}


# What draws a chart in Streamlit.
CHARTS = {
    "altair_chart",
    "area_chart",
    "bar_chart",
    "bokeh_chart",
    "graphviz_chart",
    "line_chart",
    "plotly_chart",
    "pydeck_chart",
    "pyplot",
    "scatter_chart",
    "vega_lite_chart",
}


# What a person sets, in widgets that keep it under a key; on another page the key keeps it, too.
WIDGETS = {
    "checkbox",
    "choose",
    "multiselect",
    "number",
    "number_input",
    "segmented_control",
    "select_slider",
    "selectbox",
    "several",
    "slider",
    "text_input",
    "toggle",
}
# Keys that mean the same wherever they are asked for.
COMMON_KEYS = {"channel", "colours"}


def place(path: Path) -> str:
    """The name in ``LEVELS`` of a file in the package."""
    first, *deeper = path.relative_to(PACKAGE).parts
    return first if deeper else Path(first).stem


def level(name: str) -> int:
    found = [i for i, names in enumerate(LEVELS) if name in names]
    assert len(found) == 1, f"cnnviz_core.{name} has {len(found)} places in LEVELS; give it one"
    return found[0]


def imported(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Dotted names of everything that a file imports, functions included, each with its statement."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole name in place of a relative import"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def imports_of(path: Path, package: str) -> set[str]:
    return {name for name, _ in imported(path) if name.split(".")[0] == package}


def core_imports(path: Path) -> set[str]:
    """Names in ``LEVELS`` of the core modules that a file imports."""
    return {name.split(".")[1] for name in imports_of(path, "cnnviz_core")}


def names_in(path: Path) -> set[str]:
    """Every name and attribute in a file, dotted where it is a plain chain, and its last part alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name | ast.Attribute):
            dotted = ast.unparse(node)
            found |= {dotted, dotted.rpartition(".")[2]}
        elif isinstance(node, ast.alias):
            found.add(node.name)
    return found


def at_import(path: Path) -> Iterator[str]:
    """Names imported when the file itself is imported: outside functions and ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
        if inner is not node
    }
    for node in ast.walk(tree):
        if id(node) not in later and isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif id(node) not in later and isinstance(node, ast.ImportFrom):
            yield str(node.module)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in SOURCES if p != PACKAGE / "__init__.py"], ids=relative)
def test_imports_point_down(path: Path) -> None:
    mine = place(path)
    upward = {name for name in core_imports(path) if name != mine and level(name) >= level(mine)}
    assert not upward, f"{relative(path)} imports {', '.join(sorted(upward))}, which is not below it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("*.py")), ids=relative)
def test_no_method_imports_another_method(path: Path) -> None:
    assert "methods" not in core_imports(path)


@pytest.mark.parametrize("path", sorted((PACKAGE / "render").rglob("*.py")), ids=relative)
def test_render_sees_only_results_images_numerals_and_errors(path: Path) -> None:
    assert core_imports(path) <= {"render", "results", "images", "numerals", "errors"}
    assert not imports_of(path, "torch")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_ui_imports_streamlit(path: Path) -> None:
    assert place(path) == "ui" or not imports_of(path, "streamlit")


@pytest.mark.parametrize("path", [*SOURCES, *PAGES, ROOT / "app.py"], ids=relative)
def test_charts_are_drawn_in_one_place_with_their_row(path: Path) -> None:
    drawn = names_in(path) & CHARTS
    assert drawn == ({"plotly_chart"} if path == PACKAGE / "ui" / "charts.py" else set()), "take ui/charts.py"


def test_a_setting_of_one_page_is_not_another_pages() -> None:
    homes: dict[str, set[str]] = {}
    for path in [*(PACKAGE / "ui").rglob("*.py"), *PAGES]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in WIDGETS:
                key = next((word.value for word in node.keywords if word.arg == "key"), None)
                if isinstance(key, ast.Constant):
                    homes.setdefault(str(key.value), set()).add(relative(path))
    shared = {key: sorted(paths) for key, paths in homes.items() if len(paths) > 1}
    assert shared.keys() == COMMON_KEYS, shared


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_probe_has_hooks_and_modes(path: Path) -> None:
    assert place(path) == "probe" or not names_in(path) & HOOKS_AND_MODES


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_changes_the_process_or_a_shared_network(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & PROCESS_WIDE
    assert not {call for call in calls if call.endswith(".backward")}, "take torch.autograd.grad"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_libraries_of_networks_are_imported_late_and_in_one_place(path: Path) -> None:
    libraries = {"timm", "torchvision"}
    if not any(imports_of(path, library) for library in libraries):
        return
    assert place(path) in {"catalogue", "models"} or path == PACKAGE / "collections" / "sources.py"
    assert not libraries & {name.split(".")[0] for name in at_import(path)}


def test_the_probe_is_the_file_with_hooks() -> None:
    """Else the test above would pass on any source."""
    assert {"register_forward_hook", "TorchFunctionMode"} <= names_in(PACKAGE / "probe.py")
    assert imports_of(PACKAGE / "catalogue.py", "timm")


def test_every_module_has_a_level_and_every_level_a_module() -> None:
    assert set().union(*LEVELS) == {place(path) for path in SOURCES} - {"__init__"}


@pytest.mark.parametrize("path", [*SOURCES, *PAGES, ROOT / "app.py"], ids=relative)
def test_no_module_without_a_proper_name(path: Path) -> None:
    assert path.stem not in {"utils", "common", "base", "helpers", "misc", "tools"}


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_a_page_is_short_and_computes_nothing(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    assert not imports_of(path, "torch")
    assert not imports_of(path, "numpy")
    assert "session_state" not in names_in(path)


def test_pages_lie_in_sections_and_are_all_in_the_menu() -> None:
    assert PAGES
    assert not list((ROOT / "pages").glob("*.py")), "a flat page switches Streamlit's own menu on"
    tree = ast.parse((ROOT / "app.py").read_text(encoding="utf-8"))
    (table,) = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAGES"
    ]
    listed = [
        node.value for node in ast.walk(table) if isinstance(node, ast.Constant) and str(node.value).endswith(".py")
    ]
    assert sorted(listed) == [relative(path) for path in PAGES]


@pytest.mark.parametrize(
    "method", [path.stem for path in sorted((PACKAGE / "methods").glob("*.py")) if path.stem != "__init__"]
)
def test_a_method_has_one_name_everywhere(method: str) -> None:
    assert (ROOT / "tests" / "methods" / f"test_{method}.py").exists()
    pages = [path for path in PAGES if path.stem == method]
    assert len(pages) <= 1
    assert not pages or (ROOT / "tests" / "pages" / f"test_{method}.py").exists()
