"""YAML files and `key.sub=value` words become a Config, and a Config becomes YAML again.

Layers, the later over the earlier: defaults, the file that `extends:` names, the file, the overrides. Sections and
tables ({name: value}) are merged key by key; `null` removes a key of a table; lists are replaced whole.
"""

import math
import types
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from mdf.checking import problems
from mdf.config import Config
from mdf.errors import ConfigError
from mdf.files import write_text
from mdf.resources import bundled

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The configuration in a YAML file with `key.sub=value` overrides on top, checked.

    `path` is a file, or the name of a bundled configuration (`odir5k`, `configs/odir5k.yaml`); None is the quickstart.
    Paths inside stay as they are written, relative to the working directory.
    Raises ConfigError that lists everything wrong at once.
    """
    file = find_config("quickstart" if path is None else path)
    raw = merge(asdict(Config()), read_layers(file))
    for word in overrides:
        raw = merge(raw, parse_override(word))
    errors: list[str] = []
    cfg = build(Config, raw, "", errors)
    # a setting that could not be read keeps its default: what follows from that default is not the user's doing
    unread = [e.partition(":")[0] for e in errors]
    errors += [p for p in problems(cfg) if not follows(p, unread)]
    if errors:
        count = f"{len(errors)} settings are" if len(errors) > 1 else "a setting is"
        source = f"{file} and {' '.join(overrides)}" if overrides else f"{file}"
        raise ConfigError(f"{count} wrong in {source}:\n" + "\n".join(f"  {e}" for e in errors))
    return cfg


def load_for_manifest(path: str | Path | None, overrides: list[str], manifest: str | Path) -> Config:
    """The configuration as `load_config` gives it, with the manifest as its data, however the run itself reads them."""
    data = read_layers(find_config("quickstart" if path is None else path)).get("data")
    columns = data.get("columns") if isinstance(data, dict) else None
    instead = [f"data.columns.{name}=null" for name in columns or ()]
    instead += ["data.name=manifest", f"data.manifest={manifest}", "data.table=null", "data.encoding=utf-8"]
    return load_config(path, [*overrides, *instead])


def to_yaml(cfg: Config) -> str:
    """The whole configuration as YAML; reading it again gives an equal one."""
    raw = plain(asdict(cfg))
    # tables are merged over the defaults when read: a default key that is gone has to be removed by name
    for key in Config().dialogue.questions:
        raw["dialogue"]["questions"].setdefault(key, None)
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


def save_config(cfg: Config, path: str | Path) -> None:
    """Write `cfg` to a YAML file, whole or not at all."""
    write_text(Path(path), to_yaml(cfg))


def follows(problem: str, unread: list[str]) -> bool:
    """Whether a problem is about a setting that could not be read, or about its section."""
    path = problem.partition(":")[0]
    listed = "run.stages" in unread and "run.stages lists" in problem
    return listed or any(path == u or path.startswith(f"{u}.") or u.startswith(f"{path}.") for u in unread)


def find_config(path: str | Path) -> Path:
    """The file of that path, else the bundled configuration of that name."""
    file = Path(path)
    if file.is_file():
        return file
    folder = bundled("configs")
    name = file.with_suffix("").as_posix().removeprefix("./").removeprefix("configs/")
    known = {f.relative_to(folder).with_suffix("").as_posix(): f for f in sorted(folder.rglob("*.yaml"))}
    # those are for `accelerate launch` and for `train.py grid`
    known = {k: f for k, f in known.items() if not k.startswith(("accelerate/", "grids/"))}
    if name in known and file.suffix in ("", ".yaml"):
        return known[name]
    what = "is a folder" if file.is_dir() else "is no file"
    raise ConfigError(f"{path} {what}{hint(name, known)}. With mdf come: {', '.join(known) or 'none'}")


class Loader(yaml.SafeLoader):
    """YAML in which a key written twice is an error; PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else repr(key))
        return super().construct_mapping(node, deep)


def read_layers(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What `file` says, over what the file says that it extends."""
    chain = (*above, file.resolve())
    if file.resolve() in above:
        raise ConfigError("extends: goes round in a circle: " + " -> ".join(f.name for f in chain))
    if not file.is_file():
        raise ConfigError(f"{above[-1]}: extends: {file} is no file; the path is relative to the file that says it")
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds {type(raw).__name__}, not settings such as `run: {{name: mine}}`")
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str):
        raise ConfigError(f"{file}: extends: must name one file, got {parent!r}")
    return merge(read_layers(file.parent / parent, chain), raw)


def parse_override(word: str) -> dict[str, Any]:
    """`a.b=3` as {a: {b: 3}}; the value is read as YAML."""
    key, equals, value = word.partition("=")
    parts = key.split(".")
    if not equals or key.startswith("-") or not all(parts):
        raise ConfigError(f"{word!r}: a setting is written key.sub=value, for example fuse.batch_size=4")
    try:
        out: Any = yaml.load(value, Loader)
    except yaml.YAMLError:
        raise ConfigError(f"{word!r}: the value is not valid YAML; put text with special signs in quotes") from None
    for part in reversed(parts):
        out = {part: out}
    return out


def merge(below: Any, above: Any) -> Any:
    """`above` over `below`; mappings key by key."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {k: merge(below.get(k), v) for k, v in above.items()}
    return above


def build(kind: type, raw: dict[str, Any], path: str, errors: list[str]) -> Any:
    """An object of the dataclass `kind` from `raw`; what is wrong goes to `errors` and keeps its default."""
    hints = get_type_hints(kind)
    values = {}
    for key, value in raw.items():
        where = f"{path}{key}"
        if key not in hints:
            errors.append(f"{where}: no such setting{suggest(where, [f'{path}{h}' for h in hints])}")
            continue
        try:
            values[key] = convert(hints[key], value, where, errors)
        except TypeError as error:
            errors.append(f"{where}: {error}")
    return kind(**values)


def convert(kind: Any, value: Any, where: str, errors: list[str]) -> Any:
    """`value` as the annotated type `kind`. Raises TypeError that says what was expected."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"must be a section of settings, got {show(value)}; leave the key out for the defaults")
        return build(kind, value, f"{where}.", errors)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"must be a list such as [{'' if value is None else value}], got {show(value)}")
        return tuple(convert(get_args(kind)[0], v, where, errors) for v in value)
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise TypeError(f"must be a table such as {{name: value}}, got {show(value)}")
        table = {}
        for key, item in value.items():
            if item is None:
                continue  # null removes a key of a table
            try:
                table[str(key)] = convert(get_args(kind)[1], item, f"{where}.{key}", errors)
            except TypeError as error:
                errors.append(f"{where}.{key}: {error}")
        return table
    if kind is float and isinstance(value, str) and is_number(value):
        return float(value)  # YAML 1.1 reads 1e-3, without a dot, as text
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        quotes = "; put it in quotes" if kind is str and type(value) in (int, float, bool) else ""
        raise TypeError(f"must be {NAMES[kind]}, got {show(value)}{quotes}")
    return value


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def show(value: Any) -> str:
    """A value as YAML writes it."""
    return yaml.safe_dump(plain(value), default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def suggest(path: str, siblings: list[str]) -> str:
    """ "; did you mean X?" among the settings of the section, else among all settings with that last name."""
    close = get_close_matches(path, siblings, n=1, cutoff=0.75)
    leaf = path.rpartition(".")[2]
    elsewhere = [p for p in all_paths(Config) if p.rpartition(".")[2] == leaf]
    if not close and not elsewhere:
        elsewhere = get_close_matches(path, list(all_paths(Config)), n=1, cutoff=0.75)
    found = close or elsewhere[:3]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def hint(name: str, known: Any) -> str:
    """ "; did you mean X?" or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def all_paths(kind: Any, prefix: str = "") -> Iterator[str]:
    """The dotted path of every setting."""
    hints = get_type_hints(kind)
    for f in fields(kind):
        yield prefix + f.name
        if is_dataclass(hints[f.name]):
            yield from all_paths(hints[f.name], f"{prefix}{f.name}.")
