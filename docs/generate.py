"""Writes docs/reference/ from the code: parameters from pipelines/params.py, commands from flows/cli.py.

Run    python docs/generate.py            writes the files
       python docs/generate.py --check    changes nothing; exit code 1 when a file is not what the code says
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import sys
import tokenize
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import lclsc.views
from flows import cli
from pipelines import errors, initialise, params

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/generate.py from {source}. Do not edit: change the code and run it again. -->\n"
SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def pages() -> dict[Path, str]:
    """Every generated file and its text."""
    return {REFERENCE / "params.md": params_page(), REFERENCE / "cli.md": cli_page()}


# --- parameters ------------------------------------------------------------------------------------


def params_page() -> str:
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    parts = [
        NOTE.format(source="pipelines/params.py and params.yaml"),
        "# Parameters\n",
        "Everything that shapes a model stands in the workspace's `params.yaml`, and nowhere else. "
        "`lclsc init` writes it. There are no hidden defaults: a missing or unknown key, or a value out of its "
        "range, stops a command in its first second.\n",
        "`cpu` is the shipped preset. `gpu` shows what that preset changes.\n",
    ]
    for name, field in params.Params.model_fields.items():
        parts += _section(field.alias or name, field.annotation, shipped, ())
    return "\n".join(parts)


def _section(name: str, model: Any, shipped: dict[str, Any], above: tuple[str, ...]) -> Iterator[str]:
    """One heading and table; nested sections follow it."""
    path = (*above, name)
    values = shipped[name]
    described = _docstrings(params, model.__name__)
    if name == "views":
        described = _trailing_comments(lclsc.views, "ViewSettings") | described
    comments = _yaml_comments(name)
    yield f"## `{'.'.join(path)}`\n"
    if model.__doc__:
        yield f"{_one_line(model.__doc__)}\n"
    yield "| key | range | cpu | gpu | meaning |"
    yield "|---|---|---|---|---|"
    nested: list[tuple[str, type[BaseModel]]] = []
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((key, field.annotation))
            continue
        listed = get_origin(field.annotation) is Literal  # its comment repeats the range
        meaning = described.get(key) or ("" if listed else comments.get(key, ""))
        cells = (f"`{key}`", _range(field), _value(values[key]), _gpu(path, key), meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    for rule in _rules(model):
        yield f"Rule: {rule}.\n"
    for key, inner in nested:
        yield from _section(key, inner, values, path)


def _range(field: FieldInfo) -> str:
    """Type and bounds in words: ``integer, 32 to 512, multiple of 8``."""
    kind, bounds = _unwrap(field)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    names = {int: "integer", float: "number", bool: "true or false", str: "text"}
    of_many = {list: "list of text", dict: "low and high by name"}
    words = [of_many.get(get_origin(kind)) or names[kind]]
    words += [f"{SIGNS[type(bound)]} {_bound(bound)}" for bound in bounds if type(bound) in SIGNS]
    words += [f"multiple of {bound.multiple_of}" for bound in bounds if isinstance(bound, MultipleOf)]
    words += [f"matches `{pattern}`" for bound in bounds if (pattern := getattr(bound, "pattern", None))]
    return ", ".join(words)


def _unwrap(field: FieldInfo) -> tuple[Any, list[Any]]:
    kind, bounds = field.annotation, list(field.metadata)
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind, *inner = get_args(kind)
        bounds += [bound for part in inner for bound in part.metadata]
    return kind, bounds


def _bound(bound: Any) -> str:
    number = next(getattr(bound, name) for name in ("ge", "gt", "le", "lt") if hasattr(bound, name))
    named = {2**31: "2³¹", 1 / 3: "1/3"}
    return named.get(number) or f"{number:g}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "`null`" if value is None else f"`{value}`"


def _gpu(path: tuple[str, ...], key: str) -> str:
    changed = initialise.GPU_PRESET.get(path[0], {}) if len(path) == 1 else {}
    return _value(changed[key]) if key in changed else ""


def _docstrings(module: types.ModuleType, name: str) -> dict[str, str]:
    """Field -> the string literal that follows it in the class body."""
    body = _class_body(module, name)
    return {
        field.target.id: _one_line(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _trailing_comments(module: types.ModuleType, name: str) -> dict[str, str]:
    """Field -> the comment at the end of its line."""
    lines = {field.lineno: field for field in _class_body(module, name) if isinstance(field, ast.AnnAssign)}
    source = io.StringIO(Path(str(module.__file__)).read_text(encoding="utf-8"))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(source.readline)
        if token.type == tokenize.COMMENT
    }
    found = {ast.unparse(field.target): comments[line] for line, field in lines.items() if line in comments}
    return {key: _sentence(text) for key, text in found.items()}


def _class_body(module: types.ModuleType, name: str) -> list[ast.stmt]:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    return next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _yaml_comments(section: str) -> dict[str, str]:
    """key -> its comment in the shipped params.yaml, within one section."""
    found, inside = {}, False
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        head = re.match(r"( *)(\w+):(?: *#.*)?$", line)
        inside = head[2] == section if head and (not head[1] or head[2] == section) else inside
        entry = re.match(r" +(\w+): *[^#]*#\s*(.+)$", line)
        if inside and entry:
            found[entry[1]] = _sentence(entry[2])
    return found


def _rules(model: type[BaseModel]) -> Iterator[str]:
    """What a section checks across its keys: the words of each ``ValueError``, without the values."""
    for node in ast.walk(ast.Module(_class_body(params, model.__name__), [])):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            text = ast.literal_eval(_without_values(node.exc.args[0]))
            yield " ".join(str(text).replace("()", "").split())


def _without_values(message: ast.expr) -> ast.expr:
    if isinstance(message, ast.JoinedStr):
        return ast.Constant("".join(str(part.value) for part in message.values if isinstance(part, ast.Constant)))
    return message


# --- commands --------------------------------------------------------------------------------------


def cli_page() -> str:
    group = typer.main.get_command(cli.app)
    commands: dict[str, Any] = group.commands  # type: ignore[attr-defined]
    parts = [
        NOTE.format(source="flows/cli.py"),
        "# Commands\n",
        f"{_one_line(group.help or '')}\n",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`lclsc {name}`](#lclsc-{name}) | {_paragraphs(command)[0]} |" for name, command in commands.items()),
        "",
        *_exit_codes(),
        *(line for name, command in commands.items() for line in _command(name, command)),
    ]
    return "\n".join(parts)


def _exit_codes() -> Iterator[str]:
    codes = {
        0: "Done. Also: nothing to do, or the gate is undecided.",
        errors.WrongUseError.exit_code: "Wrong use: an argument, a parameter, a folder, a key.",
        errors.OutsideSystemError.exit_code: "An outside system or a stage failed; JSON names cause and remedy.",
        1: "A finding: rows or videos not taken in, a refused gate, something for `doctor` to mend.",
        130: "Stopped by Ctrl-C; the same command goes on from there.",
    }
    yield "## Exit codes\n"
    yield "| code | meaning |"
    yield "|---|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in sorted(codes.items()))
    yield ""


def _placed(argument: Any) -> str:
    spelled = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return spelled if argument.required else f"[{spelled}]"


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    needed = [f"{one.opts[-1]} {one.name.upper()}" for one in options if one.required]
    usage = " ".join(["lclsc", name, *map(_placed, arguments), *needed, "[OPTIONS]"])
    yield f"## `lclsc {name}`\n"
    yield f"```text\n{usage}\n```\n"
    for paragraph in _paragraphs(command):
        example = paragraph.removeprefix("Example: ")
        yield f"{paragraph}\n" if example == paragraph else f"Example: `{example}`\n"
    yield "| argument or option | default | meaning |"
    yield "|---|---|---|"
    for one in (*arguments, *options):
        spelled = one.name.upper() if one in arguments else ", ".join(sorted(one.opts, key=len, reverse=True))
        cells = (f"`{spelled}`", _default(one), _one_line(one.help or ""))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield "| `--help` |  | Show the command's help and exit. |\n"


def _default(one: Any) -> str:
    if one.required:
        return "required"
    if isinstance(one.show_default, str):
        return one.show_default
    if one.envvar:
        return f"`{one.envvar}`"
    return "" if one.default is None or one.default is False else f"`{one.default}`"


def _paragraphs(command: Any) -> list[str]:
    return [_one_line(paragraph) for paragraph in (command.help or "").split("\n\n") if paragraph.strip()]


# --- both ------------------------------------------------------------------------------------------


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text[-1:] in ".!?" else f"{text}."


def main() -> int:
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the code says: run python docs/generate.py")
        return int(bool(stale))
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
