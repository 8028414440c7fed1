import numpy as np
import pytest

from mdf.dialogue import Prompts
from mdf.errors import UserError
from mdf.evaluation.zero_shot import classes_of, zero_shot_metrics, zero_shot_probabilities
from mdf.prototypes import class_embeddings, class_texts, read_templates
from mdf.records import FundusRecord
from mdf.resources import bundled
from mdf.vocabulary import describe, names

CANDIDATES = ("normal", "diabetic_retinopathy", "glaucoma")


def record(*diagnosis: str) -> FundusRecord:
    return FundusRecord("1", "1.png", diagnosis=diagnosis)


def test_diagnoses_that_training_never_saw_become_classes():
    records = [record("moderate_npdr"), record("pathologic_myopia"), record("normal")]
    assert classes_of(records, CANDIDATES) == (*CANDIDATES, "pathologic_myopia")  # moderate NPDR is a kind of one
    assert classes_of(records, ()) == ("moderate_npdr", "normal", "pathologic_myopia")


def test_asked_classes_are_named_as_one_says_them():
    assert classes_of([], CANDIDATES, ["Healthy", "AMD"]) == ("normal", "amd")
    with pytest.raises(UserError, match="nearest: glaucoma"):
        classes_of([], CANDIDATES, ["normal", "glaucomma"])
    with pytest.raises(UserError, match="two or more"):
        classes_of([], CANDIDATES, ["normal", "healthy"])


def test_descriptions_are_added_to_the_names():
    prompts = Prompts(bundled("prompts"))
    plain, described = (class_texts(prompts, ("amd",), variant)["amd"] for variant in ("names", "described"))
    assert described[: len(plain)] == plain and "a fundus photograph showing age-related macular degeneration" in plain
    assert all(describe("amd") in text for text in described[len(plain) :]) and len(described) > len(plain)


def test_every_class_of_the_vocabulary_fits_the_text_tower():
    from open_clip import SimpleTokenizer

    tokenizer, prompts = SimpleTokenizer(), Prompts(bundled("prompts"))
    texts = class_texts(prompts, names("diagnosis"), "described")
    longest = max(len(tokenizer.encode(text)) + 2 for lines in texts.values() for text in lines)
    assert longest <= 77


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("templates: [a fundus]\ndescribed: ['{description}']", "templates must be a list"),
        ("templates: ['{label}']", "described must be a list"),
        ("- one", "templates must be a list"),
        ("templates: ['{label} {eye}']\ndescribed: ['{description}']", "in braces only"),
    ],
    ids=["no-label", "no-described", "a-list", "unknown-field"],
)
def test_wrong_templates_are_refused(tmp_path, text, said):
    import shutil

    folder = shutil.copytree(bundled("prompts"), tmp_path / "prompts")
    (folder / "zero_shot.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_templates(Prompts(folder))


def test_the_ensemble_is_the_mean_direction_of_a_classs_texts():
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [-1.0, 0.0]}
    found = class_embeddings({"x": ["a", "b"], "y": ["c"]}, lambda texts: np.array([vectors[t] for t in texts]))
    assert np.allclose(found, [[0.5**0.5, 0.5**0.5], [-1, 0]])


def test_a_photograph_belongs_to_the_nearest_class():
    images, classes = np.eye(3)[[0, 1, 1]], np.eye(3)[:2]
    table = zero_shot_probabilities(images, classes, scale=10.0)
    assert table.argmax(axis=1).tolist() == [0, 1, 1]
    assert table[0, 0] == pytest.approx(1 / (1 + np.exp(-10)))


def test_frequent_classes_do_not_carry_the_figure():
    truth = [("normal",)] * 98 + [("glaucoma",)] * 2
    always_normal = np.tile([0.9, 0.1], (100, 1))
    metrics = zero_shot_metrics(
        truth, {"names": always_normal}, ("normal", "glaucoma"), [str(i) for i in range(100)], unseen=("glaucoma",)
    )
    assert metrics["names"]["balanced_accuracy"] == 0.5 == metrics["chance"]
    assert metrics["names"]["macro_auroc"] == 0.5
    assert metrics["names"]["unseen_balanced_accuracy"] == 0
    assert "accuracy" not in metrics["names"]  # 0.98, and means nothing
