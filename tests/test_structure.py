"""The shape of the package: one direction of imports, documented public names, and a process left alone."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxre

PACKAGE = Path(jaxre.__file__).parent
# Each module imports from earlier ones only.
ORDER = (
    "status",
    "records",
    "components",
    "columns",
    "labels",
    "observations",
    "settings",
    "by_group",
    "rows",
    "traced_rows",
    "roots",
    "incomplete_beta",
    "distributions",
    "sweep",
    "frame",
    "moments",
    "strata",
    "intercept",
    "stacking",
    "eager",
    "arrays",
    "effects",
    "profile",
    "proof",
    "curve",
    "likelihood",
    "loss",
    "information",
    "coefficient_error",
    "coefficients",
    "intervals",
    "look",
    "certificate",
    "optimise",
    "rescue",
    "search",
    "optimum",
    "estimate",
    "report",
    "meta_report",
    "exact",
    "icc",
    "wald",
    "spectrum",
    "null_design",
    "null",
    "level_set",
    "turning",
    "extremes",
    "edges",
    "profile_interval",
    "criteria",
    "prediction_error",
    "prediction",
    "group_effects",
    "deviations",
    "residuals",
    "influence",
    "checks",
    "progress",
    "passes",
    "shared_design",
    "shared",
    "masked",
    "variates",
    "draws",
    "spectral_draws",
    "replicates",
    "bootstrap_interval",
    "bootstrap_result",
    "bootstrap",
    "inference",
    "tidy",
    "fit_numbers",
    "fitted",
    "rise",
    "plots",
    "packed",
    "fitting",
    "meta",
    "meta_fit",
    "columns_of_groups",
    "columns_of_inference",
    "plan",
    "classes",
    "longform",
    "batches",
    "meta_many",
    "fits",
    "comparison",
    "simulated",
    "forms",
    "chunks",
    "matrices",
    "separate",
    "many",
    "datasets",
    "__init__",
    "design",
    "files",
    "tables",
    "wide",
    "command_line",
    "__main__",
)
TREES = {path.stem: ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*.py"))}
MOST_LINES = 400
PUBLIC = {name: getattr(jaxre, name) for name in jaxre.__all__}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}

modules = pytest.mark.parametrize("module", TREES)


def imports(module):
    """Modules of the package that a module imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import in line {node.lineno}"
            names = [node.module] if node.module != "jaxre" else [f"jaxre.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "jaxre":
                found.add(rest.partition(".")[0] if rest.partition(".")[0] in TREES else "__init__")
    return found


def test_every_module_has_its_place():
    assert sorted(TREES) == sorted(ORDER)


@modules
def test_imports_go_one_way(module):
    assert {name for name in imports(module) if ORDER.index(name) >= ORDER.index(module)} == set()


def test_the_imports_are_read():
    """The check above would pass on an empty list."""
    assert {"components", "moments", "records", "rows"} <= imports("effects")
    assert "fitting" in imports("command_line") | imports("__init__")


@modules
def test_a_module_is_one_thing(module):
    assert len((PACKAGE / f"{module}.py").read_text().splitlines()) <= MOST_LINES


@modules
def test_only_the_command_line_prints(module):
    lines = [
        node.lineno
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert lines == [] or module == "command_line"


@modules
def test_every_module_says_what_it_holds(module):
    assert (ast.get_docstring(TREES[module]) or "").splitlines()[0].endswith((".", ":", "?"))


def test_all_is_sorted_and_complete():
    """What `jaxre/__init__.py` imports is what it exports, and nothing else is public."""
    imported = {
        alias.name
        for node in ast.walk(TREES["__init__"])
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxre")
        for alias in node.names
    }
    assert jaxre.__all__ == sorted(imported)
    loaded = {name for name in vars(jaxre) if not name.startswith("_")}
    assert loaded - set(jaxre.__all__) <= set(TREES)  # the modules themselves


def parts(docstring):
    """{part: text} of a docstring; the part before the first heading is called "head"."""
    found, part = {"head": ""}, "head"
    for line in inspect.cleandoc(docstring).splitlines():
        heading = re.match(r"(Args|Returns|Errors|Source|Example):(.*)", line)
        if heading:
            part, line = heading[1], heading[2]
            assert part not in found, part
        found[part] = found.get(part, "") + line + "\n"
    return {part: text.strip() for part, text in found.items()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_of_a_function(name):
    """The quantity; Args with every parameter by name, Returns, Errors, Source and an Example, in this order."""
    function = FUNCTIONS[name]
    found = parts(function.__doc__)
    assert list(found) == ["head", "Args", "Returns", "Errors", "Source", "Example"]
    assert all(found.values())
    assert found["head"].splitlines()[0][0].isupper()
    assert re.search(r"[.=:]", found["head"])
    documented = re.findall(r"^ *(\w+):", found["Args"], re.MULTILINE)
    assert documented == list(inspect.signature(function).parameters)
    assert found["Example"].startswith(">>> ")
    assert name in found["Example"]


@pytest.mark.parametrize("name", CLASSES)
def test_docstring_of_a_class(name):
    """What it is; under each field, what that is."""
    cls = CLASSES[name]
    assert inspect.cleandoc(cls.__doc__).splitlines()[0].endswith(".")
    body = next(
        node.body
        for node in TREES[cls.__module__.removeprefix("jaxre.")].body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    for field, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            assert documented, f"{name}.{field.target.id}"
        if isinstance(field, ast.FunctionDef) and not field.name.startswith("_"):
            assert ast.get_docstring(field), f"{name}.{field.name}"


FRESH = """
import json, sys, warnings
import jax, numpy
before = dict(jax.config.values), list(warnings.filters), numpy.geterr()
import jaxre
jaxre.fit([3.0, 5.0, 11.0, 9.0], [0, 0, 1, 1])
after = dict(jax.config.values), list(warnings.filters), numpy.geterr()
modules = [name for name in HEAVY if name in sys.modules]
print(json.dumps([b == a for b, a in zip(before, after)] + [modules]))
"""
HEAVY = ["scipy.stats", "matplotlib", "duckdb", "narwhals", "pandas", "pyarrow", "optax", "jaxre.many", "jaxre.meta"]


def test_importing_leaves_the_process_alone():
    """No configuration, no filter and nothing printed, by a fit neither; nothing heavy is loaded before it is used."""
    run = [sys.executable, "-W", "error", "-c", FRESH.replace("HEAVY", repr(HEAVY))]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert json.loads(done.stdout) == [True, True, True, []]


def test_what_is_imported_later_is_what_a_type_checker_sees():
    (block,) = [
        node for node in TREES["__init__"].body if isinstance(node, ast.If) and isinstance(node.test, ast.Attribute)
    ]
    seen = {
        alias.name: node.module.removeprefix("jaxre").removeprefix(".") or alias.name
        for node in block.body
        for alias in node.names
    }
    assert seen == jaxre._LATER
    assert set(seen) <= set(jaxre.__all__) <= set(dir(jaxre))
    with pytest.raises(AttributeError, match="module 'jaxre' has no attribute 'fit_all'"):
        _ = jaxre.fit_all


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()
