"""Protocol: how the authors of a released CLIP ask it for a photograph's class (mdf/data/released_prompts.yaml)."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from mdf.errors import UserError
from mdf.resources import DATA
from mdf.vocabulary import describe, display, phrases

FILE = DATA / "released_prompts.yaml"
NO_NAME = "myopic maculopathy"  # FLAIR leaves names out that hold this: "they are not informative"


@dataclass(frozen=True)
class Protocol:
    """Prompts and scoring of one release."""

    name: str
    templates: tuple[str, ...]  # each holds {label}
    names: Mapping[str, str] = field(default_factory=dict)  # canonical name -> what the release calls it
    definitions: bool = False  # beside its name, a class is what its definitions say
    average: str = "unit"  # mean | unit: of a class's unit vectors, left as it is, or made a unit vector again
    scale: float = 0.0  # multiplier of cosine similarities; 0 = the model's own
    scores: str = "softmax"  # softmax | sigmoid: of the logits, or of their sigmoids
    side: str = ""  # left: texts go through the head for left eyes, photographs through none

    def label(self, name: str) -> str:
        """What the release calls a class of ours; ours where it has no name for it."""
        return self.names.get(name) or display(name)

    def texts(
        self, classes: Sequence[str], definitions: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, list[str]]:
        """The texts of each class. `definitions` are the release's own, under its names; None = our vocabulary's."""
        out = {}
        for name in classes:
            label, words = self.label(name), []
            if self.definitions and definitions is not None:
                words = list(definitions.get(label, ()))
            elif self.definitions:
                words = list(phrases(name)) or [describe(name)]
            if label not in words and not (words and NO_NAME in label):
                words.append(label)
            out[name] = [template.format(label=word) for word in words for template in self.templates]
        return out


def protocols() -> dict[str, Protocol]:
    """Those of mdf/data/released_prompts.yaml by name."""
    return {name: _protocol(FILE, name, values) for name, values in yaml.safe_load(FILE.read_text("utf-8")).items()}


def read_protocol(source: str) -> Protocol:
    """A protocol of ours by its name, or a YAML file. Raises UserError for neither, and for a file of another shape."""
    known = protocols()
    if source in known:
        return known[source]
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"--prompts-of: {source} is neither a file nor one of {', '.join(known)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts-of: {path} is no YAML ({str(error).splitlines()[0]})") from error
    return _protocol(path, path.stem, values)


def _protocol(path: Path, name: str, values: Any) -> Protocol:
    known = [f.name for f in fields(Protocol) if f.name != "name"]
    if not isinstance(values, dict) or (unknown := sorted(set(values) - set(known))):
        what = f"unknown setting {', '.join(unknown)}" if isinstance(values, dict) else "no settings"
        raise UserError(f"{path}: {what}; a protocol has {', '.join(known)}")
    templates = values.get("templates")
    if not isinstance(templates, list) or not templates or not all("{label}" in str(t) for t in templates):
        raise UserError(f"{path}: templates must be a list of texts that each hold {{label}}")
    for key, choices in (("average", ("unit", "mean")), ("scores", ("softmax", "sigmoid")), ("side", ("", "left"))):
        if values.get(key, choices[0]) not in choices:
            raise UserError(f"{path}: {key} must be one of {', '.join(c or repr(c) for c in choices)}")
    return Protocol(**{**values, "name": name, "templates": tuple(templates)})


def read_definitions(path: str | Path) -> dict[str, list[str]]:
    """What each class of a release is said to be: FLAIR's dictionary.py as it is (read, never run), or YAML or JSON of
    {class: [texts]}. Raises UserError for another shape.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
        found = _assigned(text, "definitions") if path.suffix == ".py" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--definitions: {path} cannot be read ({str(error).splitlines()[0]})") from error
    shape = isinstance(found, dict) and all(
        isinstance(k, str) and isinstance(v, list) and all(isinstance(t, str) for t in v) for k, v in found.items()
    )
    if not shape or not found:
        raise UserError(f"--definitions: {path} must hold, under the release's name of each class, a list of texts")
    return found


def _assigned(source: str, name: str) -> Any:
    """The literal that Python source assigns to a name."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise ValueError(f"nothing is assigned to {name!r}")
