import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.inference.gate import gate, resolve_checkpoint
from tests.scripts import environment


@pytest.fixture
def no_retina(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, size=(128, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "letter.png")
    return tmp_path / "letter.png"


def test_what_is_no_retina_is_refused_unless_forced(no_retina):
    with pytest.raises(UserError, match=r"letter\.png is not a fundus photograph.*--force"):
        gate(no_retina)
    image, quality, warning = gate(no_retina, force=True)
    assert image.shape == (128, 160, 3) and not quality.is_retina
    assert "does not look like a fundus photograph" in warning


def test_a_real_photograph_passes():
    spec = find_spec("skimage")
    if spec is None:
        pytest.skip("needs scikit-image, which holds a real photograph")
    _, quality, warning = gate(Path(spec.origin).parent / "data" / "retina.jpg")
    assert quality.is_retina and quality.gradable == "good" and warning is None


def test_run_folder_or_checkpoint_folder(tmp_path, capsys):
    with pytest.raises(UserError, match="no such folder"):
        resolve_checkpoint(tmp_path / "run")
    (tmp_path / "run" / "best").mkdir(parents=True)
    with pytest.raises(UserError, match="neither a checkpoint nor a run"):
        resolve_checkpoint(tmp_path / "run")
    (tmp_path / "run" / "best" / "preprocessing.json").write_text("{}")
    assert (
        resolve_checkpoint(tmp_path / "run")
        == tmp_path / "run" / "best"
        == resolve_checkpoint(tmp_path / "run" / "best")
    )
    assert capsys.readouterr().out.count("taking") == 1


def test_gate_needs_no_torch():
    code = "import mdf.inference.gate, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0
