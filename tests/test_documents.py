"""Every example in the documentation is executed, every link is followed."""

import doctest
import importlib
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxre

ROOT = Path(__file__).parent.parent
README, CHANGELOG = ROOT / "README.md", ROOT / "CHANGELOG.md"
PAGES = sorted(
    page for page in ROOT.glob("**/*.md") if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)
MODULES = ["jaxre", *(f"jaxre.{module.name}" for module in pkgutil.iter_modules(jaxre.__path__))]
MODULES.remove("jaxre.__main__")  # which runs when it is imported
EXAMPLES = {
    test.name: test
    for name in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if test.examples
}
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n*```text\n(?P<output>.*?)^```$)?", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_example(name):
    """In JAX's default single precision, which is what the reader has."""
    report = io.StringIO()
    failed = doctest.DocTestRunner(verbose=False).run(EXAMPLES[name], out=report.write).failed
    assert failed == 0, report.getvalue()


def test_docstring_examples_are_found():
    assert len(EXAMPLES) >= len([name for name in jaxre.__all__ if callable(getattr(jaxre, name)) and name.islower()])


READER = """
import contextlib, io, json, sys
names, printed = {}, []
for code in json.load(sys.stdin):
    printed.append(io.StringIO())
    with contextlib.redirect_stdout(printed[-1]):
        exec(code, names)
print(json.dumps([output.getvalue() for output in printed]))
"""


def test_readme_examples(tmp_path, request):
    """Each ```python block, one after the other as a reader would, in a fresh process and an empty folder; a ```text
    block right below is what it prints."""
    blocks = list(BLOCK.finditer(README.read_text()))
    assert blocks
    assert any(block["output"] for block in blocks)
    codes = json.dumps([block["code"] for block in blocks])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if not request.config.option.markexpr:  # the whole run compiles as a reader does, not in the haste of the tests
        environment["XLA_FLAGS"] = ""
    run = [sys.executable, "-W", "error", "-c", READER]
    done = subprocess.run(run, input=codes, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    for block, printed in zip(blocks, json.loads(done.stdout), strict=True):
        if block["output"] is not None:
            assert printed.rstrip() == block["output"].rstrip(), block["code"]


def anchor(heading):
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    """Files that a page links to exist, and so do its own headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    headings = {f"#{anchor(heading)}" for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    inside = {target for target in targets if target.startswith("#")}
    assert inside <= headings
    missing = [
        target for target in targets if target not in inside and not (page.parent / target.split("#")[0]).exists()
    ]
    assert missing == []


def test_changelog_has_the_version():
    """One heading a version, newest first, the one of the package among them or still to be released."""
    headings = re.findall(r"^## \[(.+?)\]", CHANGELOG.read_text(), re.MULTILINE)
    assert "Unreleased" in headings[:1] or jaxre.__version__ in headings
    assert headings == sorted(set(headings), reverse=True)


def test_one_version():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == jaxre.__version__
