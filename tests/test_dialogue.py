"""Questions are answered as the record says; token ids, labels and masks are what they claim to be."""

from dataclasses import replace

import numpy as np
import pytest

from mdf.config import DialogueConfig
from mdf.datasets.phantom import draw_manifest
from mdf.dialogue import ORDER, QUADRANTS, SMALL_LESIONS, Prompts, Turn, ask, caption, converse, encode, render
from mdf.errors import UserError
from mdf.processor import IMAGE_TOKENS, PAD_TOKENS, choose_token
from mdf.records import Finding, FundusRecord
from mdf.resources import bundled
from mdf.vocabulary import display
from tests.tiny import tiny_language
from tests.tiny_processor import DIAGNOSES

IGNORED, IMAGES = -100, 4
TALK = [
    Turn("system", "You read colour fundus photographs."),
    Turn("user", "What is the diagnosis?"),
    Turn("assistant", "Diabetic retinopathy."),
    Turn("user", "Are there drusen?\nAnd where?"),
    Turn("assistant", "No. There are none."),
    Turn("user", "How many microaneurysms are there?"),
    Turn("assistant", "Six to twenty."),
]


@pytest.fixture(scope="module")
def prompts():
    return Prompts(bundled("prompts"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms") / "set"
    return draw_manifest(out, count=24, size=96, seed=1, val=0.25, test=0.25).records


@pytest.fixture(scope="module")
def smollm2():
    from transformers import AutoTokenizer

    from mdf.models.weights import language_path

    try:
        folder = language_path("smollm2-135m")
    except UserError as error:
        pytest.skip(f"the tokenizer of SmolLM2 is not at hand: {error}")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def tokenizer(request, tmp_path_factory):
    if request.param == "smollm2":
        return request.getfixturevalue("smollm2")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_language(tmp_path_factory.mktemp("language")))


def encoded(tokenizer, turns, *, images=IMAGES, **kwargs):
    return encode(turns, tokenizer, "<filename>", images, **kwargs)


def supervised_spans(tokenizer, labels):
    """The texts of the supervised runs of tokens."""
    spans, run = [], []
    for label in [*labels, IGNORED]:
        if label != IGNORED:
            run.append(label)
        elif run:
            spans.append(tokenizer.decode(run, skip_special_tokens=False))
            run = []
    return spans


class TestTokens:
    def test_the_ids_are_those_of_the_tokenizers_own_template(self, tokenizer):
        placed = [
            replace(t, content="<filename>" * IMAGES + "\n" + t.content) if i == 1 else t for i, t in enumerate(TALK)
        ]
        for last, generate in ((7, False), (6, True)):
            messages = [{"role": t.role, "content": t.content} for t in placed[:last]]
            wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=generate, return_dict=False)
            assert encoded(tokenizer, TALK[:last], generate=generate).input_ids == wanted

    def test_every_answer_with_its_end_token_is_supervised_and_nothing_else(self, tokenizer):
        made = encoded(tokenizer, TALK)
        end = tokenizer.eos_token
        assert supervised_spans(tokenizer, made.labels) == [t.content + end for t in TALK if t.role == "assistant"]
        assert all(label in (IGNORED, i) for label, i in zip(made.labels, made.input_ids, strict=True))
        assert made.labels.count(tokenizer.eos_token_id) == 3

    def test_what_generation_is_given_is_what_training_saw_before_the_answer(self, tokenizer):
        whole, head = encoded(tokenizer, TALK), encoded(tokenizer, TALK[:6], generate=True)
        length = len(head.input_ids)
        assert whole.input_ids[:length] == head.input_ids
        assert whole.labels[length] != IGNORED and whole.labels[length - 1] == IGNORED
        assert set(encoded(tokenizer, TALK[:2], generate=True).labels) == {IGNORED}

    def test_the_prompt_ends_right_before_the_first_supervised_token(self, tokenizer):
        made = encoded(tokenizer, TALK)
        first = next(i for i, label in enumerate(made.labels) if label != IGNORED)
        assert made.prompt_mask == [True] * first + [False] * (len(made.input_ids) - first)
        assert made.prompt_mask == encoded(tokenizer, TALK[:3]).prompt_mask + [False] * (
            len(made.input_ids) - len(encoded(tokenizer, TALK[:3]).input_ids)
        ), "a later question changed what conditions FiLM"
        assert all(encoded(tokenizer, TALK[:2], generate=True).prompt_mask)

    @pytest.mark.parametrize("images", [0, 1, 64])
    def test_the_photograph_stands_once_at_the_head_of_the_first_question(self, tokenizer, images):
        ids = encoded(tokenizer, TALK, images=images).input_ids
        image = tokenizer.convert_tokens_to_ids("<filename>")
        at = [i for i, token in enumerate(ids) if token == image]
        assert len(at) == images
        if images:
            assert at == list(range(at[0], at[0] + images))
            before, after = (tokenizer.decode(part) for part in (ids[: at[0]], ids[at[-1] + 1 :]))
            assert before.endswith("user\n") and after.startswith("\nWhat is the diagnosis?")

    def test_too_long_a_conversation_loses_whole_turns_and_never_the_photograph(self, tokenizer):
        lengths = [len(encoded(tokenizer, TALK[:n]).input_ids) for n in (3, 5, 7)]
        for limit in range(lengths[0], lengths[2] + 3):
            turns = 3 if limit < lengths[1] else 5 if limit < lengths[2] else 7
            assert encoded(tokenizer, TALK, max_length=limit) == encoded(tokenizer, TALK[:turns])
        for refused, generate in ((TALK, False), (TALK[:6], True)):
            with pytest.raises(UserError, match=r"longer than dialogue\.max_length"):
                encoded(tokenizer, refused, max_length=lengths[0] - 1, generate=generate)

    @pytest.mark.parametrize("place", range(3))
    def test_text_that_holds_the_placeholder_is_refused(self, tokenizer, place):
        turns = list(TALK)
        turns[place] = replace(turns[place], content="a <filename> b")
        with pytest.raises(UserError, match="stands for the photograph"):
            encoded(tokenizer, turns)

    def test_padding_and_placeholder_are_tokens_of_their_own(self, tokenizer):
        pad, image = (choose_token(tokenizer, names, "a use") for names in (PAD_TOKENS, IMAGE_TOKENS))
        assert len({pad, image, tokenizer.eos_token, tokenizer.bos_token}) == 4
        assert pad == "<|endoftext|>" and tokenizer.convert_tokens_to_ids(pad) == 0

    def test_an_answer_of_several_lines_and_odd_signs_is_supervised_to_its_end(self, tokenizer):
        answer = "Draft:\n\n- drusen (5-20) – 視神経\n- C/D 0.6"
        turns = [*TALK[:2], Turn("assistant", answer), *TALK[3:5]]
        assert supervised_spans(tokenizer, encoded(tokenizer, turns).labels)[0] == answer + tokenizer.eos_token

    def test_a_template_that_rewrites_earlier_turns_is_refused(self, tokenizer):
        import copy

        other = copy.copy(tokenizer)
        other.chat_template = "{% for m in messages %}{{ loop.length ~ m['role'] ~ m['content'] }}{% endfor %}"
        with pytest.raises(UserError, match="turn by turn"):
            encoded(other, TALK)


def test_smollm2_has_one_system_turn_and_the_bos_of_its_template(smollm2):
    for turns in (TALK, TALK[:6]):
        ids = encoded(smollm2, turns, generate=len(turns) == 6).input_ids
        text = smollm2.decode(ids)
        assert text.count("<|im_start|>system") == 1
        assert ids.count(smollm2.bos_token_id) == 7  # its template opens every turn with bos, also the answer to come
        assert ids[0] == smollm2.bos_token_id != ids[1]
    assert "helpful AI assistant named SmolLM" not in render(TALK, smollm2)


# -- what is asked and answered ---------------------------------------------------------------------------------------


def truths(record, prompts):
    """Every true answer by (kind, finding), worked out from the record without `ask`."""
    found = {f.name: f for f in record.findings}
    right = {("diagnosis", None): " and ".join(display(d) for d in record.diagnosis) + "."}
    right["eye", None] = f"{record.eye} eye."
    right["report", None] = record.texts["report"]
    for name in SMALL_LESIONS:
        right["presence", name] = "yes." if name in found else "no."
        if name in found:
            count = found[name].count
            right["count", name] = (
                "one to five." if count <= 5 else "six to twenty." if count <= 20 else "more than twenty."
            )
            right["quadrant", name] = found[name].location + "."
    return right


@pytest.mark.parametrize("kind", ORDER)
def test_questions_are_answered_truly(records, prompts, kind):
    answered = set()
    for record in records:
        right = truths(record, prompts)
        for finding in SMALL_LESIONS if kind in ("presence", "quadrant", "count") else (None,):
            question = ask(record, kind, prompts, DIAGNOSES, finding=finding)
            if (kind, finding) not in right:
                assert question is None
                continue
            assert question.kind == kind and question.finding == (finding or {"eye": "disc"}.get(kind))
            assert question.answer.lower() == right[kind, finding].lower() and question.answer[0].isupper()
            assert finding is None or display(finding) in question.text
            one_place = kind != "quadrant" or question.answer.lower().rstrip(".") in QUADRANTS
            if kind != "report" and one_place:
                assert question.answer in question.candidates and len(set(question.candidates)) > 1
            else:
                assert question.candidates == ()
            answered.add(question.answer)
    assert len(answered) > 1, "the phantoms ask for one answer only, which tests nothing"


@pytest.mark.parametrize(
    ("count", "answer"),
    [
        (1, "One to five."),
        (5, "One to five."),
        (6, "Six to twenty."),
        (20, "Six to twenty."),
        (21, "More than twenty."),
        (500, "More than twenty."),
    ],
)
def test_bands_hold_their_upper_end(prompts, count, answer):
    assert prompts.count_answer(count) == answer


def test_what_a_record_does_not_know_is_not_asked(prompts):
    rng = np.random.default_rng(0)
    bare = FundusRecord("a", "a.png")
    assert all(ask(bare, kind, prompts, DIAGNOSES, rng) is None for kind in ORDER)
    with pytest.raises(UserError, match="record a: no question"):
        converse(bare, prompts, DialogueConfig(), DIAGNOSES, rng)
    none_found = FundusRecord("a", "a.png", findings=())
    for _ in range(10):
        assert ask(none_found, "presence", prompts, DIAGNOSES, rng).answer == "No."
    assert ask(none_found, "quadrant", prompts, DIAGNOSES, rng) is None
    vague = FundusRecord("a", "a.png", findings=(Finding("drusen", location="superonasal, macula"), Finding("drusen")))
    assert ask(vague, "quadrant", prompts, DIAGNOSES, rng) is None  # the last of the two says nothing of its place
    assert ask(vague, "count", prompts, DIAGNOSES, rng) is None


def test_presence_is_asked_about_what_is_there_and_what_is_not_equally_often(records, prompts):
    rng = np.random.default_rng(0)
    record = next(r for r in records if any(f.name in SMALL_LESIONS for f in r.findings))
    answers = [ask(record, "presence", prompts, DIAGNOSES, rng).answer for _ in range(400)]
    assert 140 < answers.count("Yes.") < 260


def test_a_conversation_is_true_repeats_nothing_and_gives_no_later_answer_away(records, prompts):
    cfg = DialogueConfig(turns=6, diagnosis_first=0.5, questions=dict.fromkeys(ORDER, 1.0))
    rng = np.random.default_rng(0)
    opened = 0
    for record in records:
        meaning = {}  # every phrasing of every question -> (kind, finding)
        for kind in ORDER:
            for phrasing in prompts.questions[kind]["ask"]:
                for name in SMALL_LESIONS:
                    finding = name if "{finding}" in phrasing else None
                    meaning[phrasing.format(finding=display(name))] = (kind, finding)
        right = truths(record, prompts)
        for _ in range(5):
            system, *turns = converse(record, prompts, cfg, DIAGNOSES, rng)
            assert system == Turn("system", prompts.system)
            assert [t.role for t in turns] == ["user", "assistant"] * (len(turns) // 2)
            asked = [meaning[t.content] for t in turns[::2]]
            assert 1 <= len(asked) <= cfg.turns and len(set(asked)) == len(asked)
            assert [t.content.lower() for t in turns[1::2]] == [right[a].lower() for a in asked]
            kinds = [kind for kind, _ in asked]
            opened += kinds[0] == "diagnosis"
            rest = kinds[1:] if kinds[0] == "diagnosis" else kinds
            assert rest == sorted(rest, key=ORDER.index)
    assert opened > 20


def test_a_conversation_depends_on_the_generators_state_alone(records, prompts):
    def conversations(seed):
        return [converse(r, prompts, DialogueConfig(), DIAGNOSES, np.random.default_rng([seed, 0, 1])) for r in records]

    assert conversations(0) == conversations(0)
    assert conversations(0) != conversations(1)


def test_a_question_of_weight_0_is_never_asked(records, prompts):
    cfg = DialogueConfig(turns=4, questions={"eye": 1.0, "diagnosis": 0.0})
    for record in records[:6]:
        talk = converse(record, prompts, cfg, DIAGNOSES, np.random.default_rng(0))
        assert [t.content for t in talk[2::2]] == [f"{record.eye.capitalize()} eye."]


def test_captions_name_the_diagnosis_and_the_findings(prompts):
    record = FundusRecord("a", "a.png", diagnosis=("amd",), findings=(Finding("drusen"), Finding("drusen")))
    text = caption(record, prompts)
    assert text.startswith("a fundus photograph showing age-related macular degeneration, drusen")
    assert {caption(record, prompts, np.random.default_rng(i)) for i in range(20)} > {text}
    assert caption(FundusRecord("a", "a.png", texts={"keywords": "drusen"}), prompts).endswith("drusen")
    with pytest.raises(UserError, match="record b: neither diagnosis"):
        caption(FundusRecord("b", "b.png", diagnosis=()), prompts)


def test_a_folder_without_prompts_says_which_file_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"system\.txt is missing"):
        Prompts(tmp_path)
