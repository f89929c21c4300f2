"""The rules of the house, held on every pattern file and its test.

CONTRIBUTING.md says why; here they are checked, each over the whole catalogue.
"""

from __future__ import annotations

import ast
import doctest
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

from patterns._kit.catalogue import Pattern, catalogue, script_block
from patterns._kit.header import check_import
from patterns._kit.merge import has_markers
from patterns._kit.needs import imported

PATTERNS = catalogue()
LONGEST_FILE = 450
# Each is one file by contract.
LONGER = {
    "auth/jwt_verifier": 810,  # the verifier, and the cache of keys beside it
    "auth/oauth2": 1910,  # two auths and their flight, three flows, metadata
    "errors/retry": 600,  # the policy, the budget, Retry-After's dates, the deadline
    "pagination/paginator": 1020,  # seven styles, the Link parser, and both walks
    "rate_limit/limiter": 470,  # two stores, and turns by reservation over both
    "rate_limit/throttle": 690,  # both halves of one draft, and the fields between
    "rest/caching": 1020,  # the rules of one RFC, and the exchange that acts on them
    "rest/design_check": 940,  # 21 rules with their sources, and a bounded reader
    "rest/idempotency": 1250,  # both halves of one draft, four stores, and the lease
    "rest/preconditions": 670,  # tags and dates, the server's order, and the update
    "webhooks/delivery": 470,  # the policy, Retry-After's dates, and the workers
    "webhooks/inbox": 470,  # the rows, the receiver, and the three handshakes
    "webhooks/outbox": 650,  # one set of tables: producers and workers, two engines
}
LONGEST_FUNCTION = 45
SPDX = [
    "# SPDX-FileCopyrightText: 2026 The API integration patterns authors",
    "# SPDX-License-Identifier: MIT",
]

each = pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(pattern: Pattern) -> Iterator[tuple[str, Definition]]:
    """Yield the module's public functions and classes, and the classes' methods."""
    for node in pattern.tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Definition) and not member.name.startswith(
                        "_"
                    ):
                        yield f"{node.name}.{member.name}", member


def functions(pattern: Pattern) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of the module, nested ones and methods included."""
    for node in ast.walk(pattern.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def inherits_docstring(pattern: Pattern, name: str) -> bool:
    """Tell whether a method overrides a documented one of a base in the same file."""
    owner, _, method = name.partition(".")
    classes = {n.name: n for n in pattern.tree.body if isinstance(n, ast.ClassDef)}
    if not method or owner not in classes:
        return False
    bases = {ast.unparse(base).partition("[")[0] for base in classes[owner].bases}
    return any(
        inherits_docstring(pattern, f"{base}.{method}")
        or any(
            isinstance(node, Definition)
            and node.name == method
            and ast.get_docstring(node)
            for node in classes[base].body
        )
        for base in bases & classes.keys()
    )


def overloads(node: Definition) -> bool:
    """Tell whether a definition is one of several signatures of one function."""
    return any("overload" in ast.unparse(d) for d in node.decorator_list)


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines without its docstring."""
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_there_are_patterns() -> None:
    """The checks below have something to check."""
    assert PATTERNS


@each
def test_head(pattern: Pattern) -> None:
    """Two SPDX lines, the PEP 723 block, the docstring, in this order."""
    lines = pattern.text.split("\n")
    assert lines[:3] == [*SPDX, "# /// script"]
    below = lines[lines.index("# ///") + 1 :]
    assert next(line for line in below if line).lstrip("rR").startswith('"""')


@each
def test_script_block(pattern: Pattern) -> None:
    """The block asks for Python 3.11 and newer, and names every package."""
    block = tomllib.loads(script_block(pattern.text))
    assert block.keys() == {"requires-python", "dependencies"}
    assert block["requires-python"] == ">=3.11"
    assert list(pattern.requires) == block["dependencies"]


@each
def test_imports_are_declared(pattern: Pattern) -> None:
    """Imports are the standard library's or those of a declared package."""
    declared = {re.split(r"[^\w.-]", need)[0] for need in pattern.requires}
    assert {name.replace("_", "-") for name in imported(pattern.text)} <= declared


@each
def test_no_pattern_imports_another(pattern: Pattern) -> None:
    """No import of `patterns` and no relative import: a file stands alone."""
    assert "patterns" not in imported(pattern.text)
    for node in ast.walk(pattern.tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}"


@each
def test_httpx_is_imported_in_one_line(pattern: Pattern) -> None:
    """The one line `import httpx`, which `--http httpx2` rewrites, and no other."""
    statements = [
        (ast.unparse(node), node.col_offset)
        for node in ast.walk(pattern.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and re.match(r"(import|from) httpx\b", ast.unparse(node))
    ]
    uses = any(
        isinstance(node, ast.Name) and node.id == "httpx"
        for node in ast.walk(pattern.tree)
    )
    assert statements == ([("import httpx", 0)] if uses else [])
    assert len(re.findall(r"^import httpx$", pattern.text, re.MULTILINE)) == uses


@each
def test_all_is_sorted_and_true(pattern: Pattern) -> None:
    """`__all__` is sorted, its names exist, and it has every public definition."""
    assert pattern.exports
    assert list(pattern.exports) == sorted(set(pattern.exports))
    defined = {
        target.id if isinstance(target, ast.Name) else ""
        for node in pattern.tree.body
        for target in (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
    }
    named = {name for name, _ in public(pattern) if "." not in name}
    assert set(pattern.exports) <= defined | named
    assert named <= set(pattern.exports)


@each
def test_promise(pattern: Pattern) -> None:
    """The docstring's first line is one short sentence, and more follows it."""
    assert pattern.promise == pattern.doc.partition("\n")[0]
    assert len(pattern.promise) < 72
    assert pattern.promise.endswith(".")
    assert len(pattern.doc.split("\n")) > 2


@each
def test_public_names_are_documented(pattern: Pattern) -> None:
    """Every public class, function and method has a docstring, or inherits one."""
    bare = [
        name
        for name, node in public(pattern)
        if not overloads(node)
        and not ast.get_docstring(node)
        and not inherits_docstring(pattern, name)
    ]
    assert bare == []


@each
def test_functions_are_annotated(pattern: Pattern) -> None:
    """Every function says what it takes and what it returns."""
    bare = [
        f"{node.name}, line {node.lineno}"
        for node in functions(pattern)
        if node.returns is None
        or any(
            argument.annotation is None
            for argument in (
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                *filter(None, (node.args.vararg, node.args.kwarg)),
            )
            if argument.arg not in ("self", "cls")
        )
    ]
    assert bare == []


@each
def test_functions_are_short(pattern: Pattern) -> None:
    """No function is longer than one screen, its docstring not counted."""
    long = {node.name: length(node) for node in functions(pattern)}
    assert {n: size for n, size in long.items() if size > LONGEST_FUNCTION} == {}


@each
def test_files_are_short(pattern: Pattern) -> None:
    """A file that outgrows this holds two patterns."""
    longest = LONGER.get(pattern.name, LONGEST_FILE)
    assert len(pattern.text.splitlines()) <= longest


@each
def test_runs_its_doctests(pattern: Pattern) -> None:
    """A file that is run runs its doctests, and says how many."""
    run = subprocess.run(
        [sys.executable, str(pattern.path)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0
    assert re.fullmatch(r"TestResults\(failed=0, attempted=[1-9]\d*\)\n", run.stdout)


@each
def test_doctests_stand_alone(pattern: Pattern) -> None:
    """There are doctests, and none imports its own package or its own module."""
    examples = [
        example.source
        for node in ast.walk(pattern.tree)
        if isinstance(node, ast.Module | Definition)
        for example in doctest.DocTestParser().get_examples(
            ast.get_docstring(node) or ""
        )
    ]
    assert examples
    own = rf"^\s*(from|import)\s+(patterns|{pattern.stem})\b"
    assert [source for source in examples if re.search(own, source)] == []


@each
def test_a_copy_shadows_nothing(pattern: Pattern) -> None:
    """A file beside a script must not hide a module of the standard library."""
    assert pattern.stem not in sys.stdlib_module_names
    declared = {re.split(r"[^\w.-]", need)[0] for need in pattern.requires}
    assert pattern.stem not in declared


@each
def test_text_is_plain(pattern: Pattern) -> None:
    """UTF-8 with plain newlines, one at the end, and nothing like a merge marker."""
    raw = pattern.path.read_bytes()
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    assert not has_markers(pattern.text)


@each
def test_the_test_can_be_copied(pattern: Pattern) -> None:
    """The test exists, and imports its module and httpx in one line each."""
    text = pattern.test_path.read_text("utf-8")
    check_import(text, pattern.test_name)
    tree = ast.parse(text)
    httpx = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and re.match(r"(import|from) httpx\b", ast.unparse(node))
    ]
    assert httpx in ([], ["import httpx"])
    assert not has_markers(text)


@each
def test_the_test_uses_no_fixture_of_the_repository(pattern: Pattern) -> None:
    """What a copied test needs is in its own file, or comes with pytest."""
    tree = ast.parse(pattern.test_path.read_text("utf-8"))
    defined = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any("fixture" in ast.unparse(d) for d in node.decorator_list)
    }
    aliases = {  # a parametrize call that several tests share, by its name
        ast.unparse(node.targets[0]): node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    builtin = {"tmp_path", "monkeypatch", "capsys", "caplog", "recwarn", "request"}
    builtin |= {"tmp_path_factory", "subtests"}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = any("given" in ast.unparse(d) for d in node.decorator_list)
        if node.name.startswith("test_") and not given:
            calls = (aliases.get(ast.unparse(d), d) for d in node.decorator_list)
            parametrized = {
                name
                for d in calls
                if isinstance(d, ast.Call) and "parametrize" in ast.unparse(d.func)
                for name in parameter_names(d.args[0])
            }
            asked = {argument.arg for argument in node.args.args}
            assert asked <= defined | builtin | parametrized, node.name


def parameter_names(node: ast.expr) -> set[str]:
    """Return the argument names that a parametrize call gives."""
    value = ast.literal_eval(node)
    names = value.split(",") if isinstance(value, str) else value
    return {name.strip() for name in names}


@each
def test_vectors_exist(pattern: Pattern) -> None:
    """Every vector file that the test names is there."""
    assert [path.name for path in pattern.vectors if not path.is_file()] == []


@each
def test_every_test_is_a_sentence(pattern: Pattern) -> None:
    """Each test function says in its docstring what it holds."""
    tree = ast.parse(pattern.test_path.read_text("utf-8"))
    bare = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not (ast.get_docstring(node) or "").endswith(".")
    ]
    assert bare == []


def test_files_that_are_copied_are_looked_for_where_they_lie() -> None:
    """Every folder of patterns is a package with a docstring and nothing else."""
    for folder in {pattern.path.parent for pattern in PATTERNS}:
        tree = ast.parse((folder / "__init__.py").read_text("utf-8"))
        assert ast.get_docstring(tree)
        assert len(tree.body) == 1
