"""Released fundus encoders: what each is, and how the tensors of its file become ours (mdf/data/zoo.yaml).

Everything is strict: a tensor of the file is used or dropped by a rule that says why, a tensor of the encoder comes out
of the file or is said to be fresh, and anything else is refused.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mdf.errors import UserError
from mdf.models.weight_files import Content, metadata
from mdf.resources import DATA

TABLE = DATA / "zoo.yaml"
RELEASE = "mdf_release"  # in the metadata of a file that `prepare.py weights` wrote: its tensors have our names


@dataclass(frozen=True)
class Rule:
    """What becomes of the tensors whose whole name matches."""

    match: str
    to: tuple[str, ...] = ()  # our name(s); \1 is the first group. Several: its rows are cut up, see `rows`
    drop: str = ""  # or why it is not used
    rows: tuple[int, ...] = ()  # in which proportion the rows go to the names of `to`
    part: tuple[int, int] = (0, 1)  # (k, n): rows k/n of ours; the others come from other tensors
    lora: str = ""  # A | B: ours is W + scale · B A
    scale: float = 1.0
    factor: bool = False  # ours is the tensor that another rule gives, times this one transposed
    like: bool = False  # the same values in the shape of ours (a scalar of one value, a table with a batch dimension)


@dataclass(frozen=True)
class Release:
    """One published encoder."""

    name: str
    title: str
    licence: str
    cite: str
    source: str  # where the user gets it
    image: Mapping[str, Any]  # see mdf/models/zoo_towers.py
    recipe: Mapping[str, Any]  # of mdf.imaging.recipe.Recipe
    rules: tuple[Rule, ...]
    activation: str
    pooled: str  # in words
    width: int  # of the image embedding
    files: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ("",)  # entries of the file that may hold the tensors; "" = the file itself
    tensors: int = 0  # in the published file, where that is known
    fresh: Mapping[str, str] = field(default_factory=dict)  # our tensors that it does not have (patterns), and why
    text: Mapping[str, Any] | None = None  # open_clip's text_cfg, or {open_clip: NAME}; None: no text tower to use
    logit_scale: float = 0.0  # multiplier of cosine similarities, where the file does not have it
    notes: str = ""

    @property
    def side(self) -> int:
        """Of its input, in pixels."""
        return int(self.recipe["side"])


class Unique(yaml.SafeLoader):
    """Refuses a key that is there twice, which YAML would settle by silently taking the second."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise UserError(f"{key.start_mark.name}, line {key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_table(path: Path) -> dict[str, Release]:
    """The releases of a table by name. Raises UserError for two of one name, or settings that it does not know."""
    with path.open(encoding="utf-8") as file:
        entries = yaml.load(file, Unique)
    known = {f.name for f in fields(Release)}
    out = {}
    for name, values in entries.items():
        if name.startswith("."):  # lists of rules that several releases share
            continue
        if unknown := sorted(set(values) - known):
            raise UserError(f"{path}: {name}: unknown setting {', '.join(unknown)}")
        rules = tuple(read_rule(rule) for rule in flat(values["rules"]))
        lists: dict[str, Any] = {k: tuple(values[k]) for k in ("files", "wrapper") if k in values}
        out[name] = Release(**{**values, **lists, "name": name, "rules": rules})
    return out


def flat(rules: list) -> list[dict]:
    """Rules of which some come as a list that releases share."""
    return [rule for item in rules for rule in (flat(item) if isinstance(item, list) else [item])]


def read_rule(values: dict[str, Any]) -> Rule:
    to = values.get("to", ())
    lists: dict[str, Any] = {k: tuple(values[k]) for k in ("rows", "part") if k in values}
    return Rule(**{**values, **lists, "to": (to,) if isinstance(to, str) else tuple(to)})


@cache
def releases() -> dict[str, Release]:
    """All of mdf/data/zoo.yaml."""
    return read_table(TABLE)


def named(name: str) -> Release:
    """The release of that name. Raises UserError where there is none."""
    if name not in releases():
        near = difflib.get_close_matches(name, releases(), 3, 0.4)
        raise UserError(
            f"encoder.weights: there is no release {name!r}; "
            f"{'nearest: ' + ', '.join(near) if near else 'known: ' + ', '.join(releases())}"
        )
    return releases()[name]


def reference(weights: str | None) -> tuple[Release | None, Path | None]:
    """The release and the file that `encoder.weights` names: NAME:FILE, NAME alone, or a converted FILE alone.

    (None, None) for what is something else: a file of another kind, a tag, a bundled name.
    """
    if not weights:
        return None, None
    if weights in releases():
        return releases()[weights], None
    name, colon, file = weights.partition(":")
    if colon and (name in releases() or not Path(weights).expanduser().exists()):
        return named(name), Path(file).expanduser()
    written = metadata(weights).get(RELEASE)
    return (named(written), Path(weights).expanduser()) if written else (None, None)


def colours(recipe: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a recipe, which may have none."""
    channels = 1 if recipe.get("colour") == "grey" else 3
    mean, std = recipe.get("mean") or (0.0,) * channels, recipe.get("std") or (1.0,) * channels
    return tuple(map(float, mean)), tuple(map(float, std))


@dataclass
class Converted:
    """Tensors of a file under our names, and what was left over."""

    tensors: dict[str, Tensor]
    used: dict[str, str] = field(default_factory=dict)  # name in the file -> ours
    dropped: dict[str, str] = field(default_factory=dict)  # name in the file -> why
    unknown: list[str] = field(default_factory=list)  # names in the file that no rule is for
    wrong: list[str] = field(default_factory=list)  # what does not go together, in words


def unwrap(release: Release, content: Content) -> dict[str, Tensor] | None:
    """The tensors of a file where the release has them, or None."""
    return next((t for w in release.wrapper if (t := content.inside(w)) is not None), None)


def convert(release: Release, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Converted:
    """The tensors of a release's file under our names; `wanted` are ours, of which only the shapes are looked at."""
    out = Converted({})
    pieces: dict[str, list[tuple[Rule, Tensor, str]]] = {}
    for name, tensor in tensors.items():
        rule, found = first_match(release, name)
        if rule is None or found is None:
            out.unknown.append(name)
        elif rule.drop:
            out.dropped[name] = rule.drop
        else:
            names = [found.expand(to) for to in rule.to]
            out.used[name] = names[0]
            for to, piece in zip(names, cut(tensor, rule, out, name), strict=False):
                pieces.setdefault(to, []).append((rule, piece, name))
    for to, found_pieces in pieces.items():
        try:
            out.tensors[to] = whole(to, found_pieces, wanted.get(to))
        except (ValueError, RuntimeError) as error:
            out.wrong.append(str(error).partition("\n")[0])
    return out


def first_match(release: Release, name: str) -> tuple[Rule | None, re.Match[str] | None]:
    """The first rule for a name."""
    for rule in release.rules:
        if found := re.fullmatch(rule.match, name):
            return rule, found
    return None, None


def cut(tensor: Tensor, rule: Rule, out: Converted, name: str) -> list[Tensor]:
    """A tensor cut by its rows, where its rule says so."""
    if not rule.rows:
        return [tensor]
    unit, rest = divmod(tensor.shape[0], sum(rule.rows))
    if rest:
        out.wrong.append(f"{name} {list(tensor.shape)}: its rows cannot be cut {':'.join(map(str, rule.rows))}")
        return []
    return list(tensor.split([unit * share for share in rule.rows]))


def whole(to: str, pieces: list[tuple[Rule, Tensor, str]], wanted: Tensor | None) -> Tensor:
    """Our tensor `to` from the tensors that it is made of. Raises ValueError where they do not go together."""
    lora = {rule.lora: (tensor, rule.scale) for rule, tensor, _ in pieces if rule.lora}
    factors = [tensor for rule, tensor, _ in pieces if rule.factor]
    plain = sorted((p for p in pieces if not p[0].lora and not p[0].factor), key=lambda p: p[0].part)
    count = plain[0][0].part[1] if plain else 0
    names = ", ".join(name for _, _, name in pieces)
    if [p[0].part for p in plain] != [(k, count) for k in range(count)] or set(lora) not in (set(), {"A", "B"}):
        raise ValueError(
            f"{to} cannot be made of {names}: {'there are two of one' if len(plain) > count else 'a part is missing'}"
        )
    out = plain[0][1] if count == 1 else torch.cat([tensor for _, tensor, _ in plain])
    if lora:
        (down, _), (up, scale) = lora["A"], lora["B"]
        out = (out.float() + scale / down.shape[0] * up.float() @ down.float()).to(out.dtype)
    for factor in factors:
        out = (out.float() @ factor.float().T).to(out.dtype)
    if plain[0][0].like and wanted is not None and out.numel() == wanted.numel():
        out = out.reshape(wanted.shape)
    return out


def of_release(release: Release, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of our tensors that the release is to fill: its image tower, and its text tower where it has one."""
    text = release.text is not None
    return {
        n: t
        for n, t in wanted.items()
        if (n.startswith("visual.") or text) and not any(re.fullmatch(pattern, n) for pattern in release.fresh)
    }
