"""Questions are answered as the record says; token ids, labels and masks are what they claim to be."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mdf.checking import QUESTIONS
from mdf.config import DialogueConfig, load_config
from mdf.datasets.phantom import draw_manifest
from mdf.dialogue import ORDER, QUADRANTS, SMALL_LESIONS, Prompts, Turn, ask, converse, encode, render
from mdf.errors import UserError
from mdf.measures import from_fovea, reach
from mdf.processor import IMAGE_TOKENS, PAD_TOKENS, choose_token
from mdf.records import Finding, FundusRecord
from mdf.resources import bundled
from mdf.vocabulary import describe, display
from tests.tiny import tiny_language
from tests.tiny_processor import DIAGNOSES

IGNORED, IMAGES = -100, 4
PLAIN = ("eye", "presence", "quadrant", "count", "diagnosis", "report")  # the kinds that read the photograph directly
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
            made = encoded(tokenizer, TALK, max_length=limit)
            assert made == encoded(tokenizer, TALK[:turns]) and made.dropped == (7 - turns) // 2
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


@pytest.mark.parametrize("kind", PLAIN)
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
    assert prompts.band("count", count) == answer


@pytest.mark.parametrize(("kind", "measure"), [("size", reach), ("distance", from_fovea)])
def test_sizes_and_distances_are_told_in_bands_of_disc_diameters(records, prompts, kind, measure):
    bands, answered = prompts.questions[kind]["bands"], set()
    for record in records:
        for name in SMALL_LESIONS:
            question = ask(record, kind, prompts, (), finding=name)
            if name not in {f.name for f in record.findings}:
                assert question is None
                continue
            value, place = measure(record, name), [answer for _, answer in bands].index(question.answer)
            ends = [0, *(end for end, _ in bands[:-1]), np.inf]
            assert ends[place] < value <= ends[place + 1] or (value == 0 and place == 0)
            assert question.candidates == tuple(answer for _, answer in bands) and question.finding == name
            assert display(name) in question.text
            answered.add(place)
        assert ask(replace(record, boxes={}), kind, prompts, (), np.random.default_rng(0)) is None
    assert answered == {0, 1, 2}


def test_the_default_run_asks_for_no_size_and_no_distance():
    assert not {"size", "distance"} & set(load_config("quickstart").dialogue.kinds)
    assert {"size", "distance"} <= set(load_config("study_phantom").dialogue.kinds)


def test_what_a_record_does_not_know_is_not_asked(prompts):
    rng = np.random.default_rng(0)
    bare = FundusRecord("a", "a.png")
    assert all(ask(bare, kind, prompts, DIAGNOSES, rng) is None for kind in ORDER if not kind.startswith("un"))
    with pytest.raises(UserError, match="record a: no question"):
        converse(bare, prompts, DialogueConfig(), DIAGNOSES, rng)
    none_found = FundusRecord("a", "a.png", findings=())
    for _ in range(10):
        assert ask(none_found, "presence", prompts, DIAGNOSES, rng).answer == "No."
    assert ask(none_found, "quadrant", prompts, DIAGNOSES, rng) is None
    vague = FundusRecord("a", "a.png", findings=(Finding("drusen", location="superonasal, macula"), Finding("drusen")))
    assert ask(vague, "quadrant", prompts, DIAGNOSES, rng) is None  # one of the two says nothing of its place
    assert ask(vague, "count", prompts, DIAGNOSES, rng) is None


def test_a_kind_of_a_lesion_is_one_and_entries_of_one_lesion_are_taken_together(prompts):
    rng = np.random.default_rng(0)
    narrow = FundusRecord("a", "a.png", findings=(Finding("superficial_haemorrhage", "superotemporal", count=3),))
    assert ask(narrow, "presence", prompts, DIAGNOSES, rng, finding="haemorrhage").answer == "Yes."
    assert ask(narrow, "quadrant", prompts, DIAGNOSES, rng, finding="haemorrhage").answer == "Superotemporal."
    assert ask(narrow, "presence", prompts, DIAGNOSES, rng, finding="microaneurysm").answer == "No."
    twice = (Finding("microaneurysm", "superotemporal", count=12), Finding("microaneurysm", "inferonasal", count=9))
    both = replace(narrow, findings=twice)
    assert ask(both, "quadrant", prompts, DIAGNOSES, rng).answer == "Superotemporal, inferonasal."
    assert ask(both, "count", prompts, DIAGNOSES, rng).answer == prompts.band("count", 21) != prompts.band("count", 9)


def test_presence_is_asked_about_what_is_there_and_what_is_not_equally_often(records, prompts):
    rng = np.random.default_rng(0)
    record = next(r for r in records if any(f.name in SMALL_LESIONS for f in r.findings))
    answers = [ask(record, "presence", prompts, DIAGNOSES, rng).answer for _ in range(400)]
    assert 140 < answers.count("Yes.") < 260


def test_a_conversation_is_true_repeats_nothing_and_gives_no_later_answer_away(records, prompts):
    cfg = DialogueConfig(turns=6, diagnosis_first=0.5, questions=dict.fromkeys(PLAIN, 1.0))
    rng = np.random.default_rng(0)
    opened = 0
    for record in records:
        meaning = {}  # every phrasing of every question -> (kind, finding)
        for kind in PLAIN:
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


def test_kinds_of_little_weight_are_asked_by_their_weights_where_there_is_nothing_else(prompts):
    """Four draws nearly always give a kind that this record cannot answer; what is asked then keeps the mix."""
    record = FundusRecord("a", "a.png", eye="left", texts={"report": "Drusen."})
    questions = {"diagnosis": 0.97, "eye": 0.01, "report": 0.02, "unknown": 0.0}
    for order in (list(questions), list(questions)[::-1]):
        cfg = DialogueConfig(turns=1, questions={kind: questions[kind] for kind in order})
        rng = np.random.default_rng(0)
        answers = [converse(record, prompts, cfg, DIAGNOSES, rng)[2].content for _ in range(600)]
        # two thirds of 600 are 400, with a standard deviation of 11.5; the seed makes it the same every time
        assert set(answers) == {"Left eye.", "Drusen."} and abs(answers.count("Drusen.") - 400) < 46
    talks = [converse(record, prompts, cfg, DIAGNOSES, np.random.default_rng(7)) for _ in range(2)]
    assert talks[0] == talks[1]


def test_all_lesions_at_once_can_still_be_asked_about(prompts):
    record = FundusRecord("a", "a.png", findings=tuple(Finding(name) for name in SMALL_LESIONS))
    for seed in range(10):
        assert ask(record, "presence", prompts, DIAGNOSES, np.random.default_rng(seed)).answer == "Yes."


def test_a_folder_without_prompts_says_which_file_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"system\.txt is missing"):
        Prompts(tmp_path)


# -- the curriculum: what follows from what is seen -------------------------------------------------------------------

CURRICULUM = {kind: 1.0 for kind in QUESTIONS if kind != "unrecorded"}
DIABETIC = FundusRecord(
    "d",
    "d.png",
    diagnosis=("moderate_npdr",),
    findings=(Finding("microaneurysm", count=3), Finding("haemorrhage", location="superonasal")),
    grade={"icdr": 2},
)


def answer(record, kind, prompts, rng=None):
    question = ask(record, kind, prompts, DIAGNOSES, rng)
    return question and question.answer


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [(None, "c220ba6de0be3630"), (PLAIN, "f8e581948be3fbce")],
)
def test_the_conversations_of_a_seed_stay_what_they_were(records, prompts, kinds, wanted):
    """Models were measured on these: another phrasing, another place of it or another draw, and they were on others."""
    cfg = DialogueConfig(questions=dict.fromkeys(kinds, 1.0)) if kinds else load_config("quickstart").dialogue
    digest = hashlib.sha256()
    for n in range(50):
        rng = np.random.default_rng([0, n // 24, n % 24])
        turns = converse(records[n % 24], prompts, cfg, DIAGNOSES, rng)
        said = [[t.role, t.content, t.finding] for t in turns]
        digest.update(json.dumps([*said, rng.random()]).encode())  # the draw behind them, too
    assert digest.hexdigest()[:16] == wanted


def test_every_kind_of_question_has_its_place_and_many_phrasings(prompts):
    assert set(ORDER) == set(QUESTIONS) == set(prompts.questions)
    for kind in set(ORDER) - {"unrecorded"}:
        lines = prompts.questions[kind]["ask"] + prompts.questions[kind]["more"]
        assert len(set(lines)) == len(lines) >= 7, kind


def test_find_grade_and_explain_say_what_the_record_and_the_vocabulary_say(prompts):
    assert answer(DIABETIC, "find", prompts) == "Microaneurysms and haemorrhages."
    assert answer(DIABETIC, "grade", prompts) == "Grade 2: moderate non-proliferative diabetic retinopathy."
    assert answer(DIABETIC, "explain", prompts) == (
        "Moderate non-proliferative diabetic retinopathy. Seen here: microaneurysms and haemorrhages. "
        f"Typical of moderate non-proliferative diabetic retinopathy: {describe('moderate_npdr')}"
    )
    clear = replace(DIABETIC, diagnosis=("normal",), findings=(), grade={"icdr": 0.0})
    assert answer(clear, "find", prompts) == "No lesion is seen."
    assert answer(clear, "grade", prompts) == "Grade 0: no diabetic retinopathy."
    assert "No lesion is seen here." in answer(clear, "explain", prompts)


def test_nobody_looked_for_lesions_so_none_is_named_and_none_is_denied(prompts):
    unsearched = replace(DIABETIC, findings=None)
    assert answer(unsearched, "find", prompts) is None
    assert "here" not in answer(unsearched, "explain", prompts)


def test_the_score_of_csdi_is_not_taken_for_a_grade_of_cataract(prompts):
    assert answer(replace(DIABETIC, grade={"cataract": 2}), "grade", prompts) is None
    with pytest.raises(UserError, match=r"record d: grade\.icdr: 7 is no value of icdr"):
        answer(replace(DIABETIC, grade={"icdr": 7}), "grade", prompts)


def test_a_cataract_is_scored_where_the_record_has_a_score(prompts):
    assert answer(replace(DIABETIC, grade={"csdi": 6.5}), "severity", prompts) == "Severity 6.5 of 10."
    assert answer(replace(DIABETIC, grade={"csdi": 4.0}), "severity", prompts) == "Severity 4 of 10."
    assert answer(DIABETIC, "severity", prompts) is None
    for wrong in (11, "dense", True):
        with pytest.raises(UserError, match=r"record d: grade\.csdi: .* must be a number from 0 to 10"):
            answer(replace(DIABETIC, grade={"csdi": wrong}), "severity", prompts)


def test_referral_is_the_clinicians_line_of_the_diagnosis_or_of_the_nearest_broader_one(prompts):
    rules = prompts.recommendations
    for diagnosis, line in (("moderate_npdr", "moderate_npdr"), ("dry_amd", "amd"), ("macular_hole", "default")):
        assert answer(replace(DIABETIC, diagnosis=(diagnosis,)), "refer", prompts) == rules[line]
    both = answer(replace(DIABETIC, diagnosis=("amd", "wet_amd", "dry_amd")), "refer", prompts)
    assert both == f"{rules['amd']} {rules['wet_amd']}"
    assert answer(replace(DIABETIC, diagnosis=("blurred",)), "refer", prompts) == rules["ungradable"]


@pytest.mark.parametrize("kind", ["refer", "follow_up", "differential"])
@pytest.mark.parametrize("diagnosis", [None, (), ("no_glaucoma",), ("no_diabetic_retinopathy", "lens_dust")])
def test_nothing_is_concluded_where_only_one_disease_was_looked_for(prompts, kind, diagnosis):
    assert answer(replace(DIABETIC, diagnosis=diagnosis), kind, prompts) is None


def test_the_differential_names_other_diseases_than_the_records_own(prompts):
    text = answer(DIABETIC, "differential", prompts)
    assert text.startswith(
        "Besides moderate non-proliferative diabetic retinopathy, think of hypertensive retinopathy, "
    )
    both = answer(replace(DIABETIC, diagnosis=("moderate_npdr", "hypertensive_retinopathy")), "differential", prompts)
    others = both.partition("think of")[2]
    assert "hypertensive" not in others and "diabetic" not in others and "radiation retinopathy" in others
    assert answer(replace(DIABETIC, diagnosis=("normal",)), "differential", prompts) is None


def test_what_no_photograph_tells_is_said_to_be_unknown_whatever_the_record_knows(prompts):
    known = replace(DIABETIC, age=61, sex="female", extra={"eye_pressure": 31})
    said = {ask(known, "unknown", prompts, (), np.random.default_rng(i)) for i in range(200)}
    assert len({q.answer for q in said}) == len(prompts.questions["unknown"]["topics"])
    for question in said:
        assert question.answer.startswith("This cannot be told from this photograph: the ")
        assert not any(word in question.answer for word in ("61", "female", "31"))
        assert question.answer.partition(": the ")[2].partition(" is known from ")[0] in question.text


def test_what_only_this_record_lacks_is_said_to_be_unrecorded(prompts):
    full = replace(DIABETIC, eye="left", findings=(Finding("drusen", "superonasal", count=2),))
    assert answer(full, "unrecorded", prompts) is None
    rng = np.random.default_rng(0)
    asked = [ask(DIABETIC, "unrecorded", prompts, (), rng) for _ in range(60)]
    assert {q.answer for q in asked} == {"This is not recorded for this photograph."}
    eye, count, quadrant = (prompts.questions[kind]["ask"] for kind in ("eye", "count", "quadrant"))
    wanted = {*eye, *(q.format(finding="haemorrhages") for q in count)}
    assert {q.text for q in asked} == wanted | {q.format(finding="microaneurysms") for q in quadrant}


def test_a_curriculum_goes_from_what_is_seen_to_what_follows_and_repeats_nothing(records, prompts):
    cfg = DialogueConfig(questions=CURRICULUM, turns=10, diagnosis_first=0.0, phrasings="all")
    kinds_of = {}
    for kind in ORDER:
        for line in prompts.questions[kind].get("ask", []) + prompts.questions[kind].get("more", []):
            words = [display(n) for n in SMALL_LESIONS]
            words += prompts.questions["unknown"]["topics"] if kind == "unknown" else []
            words += prompts.questions["grade"]["scales"].values() if kind == "grade" else []
            kinds_of |= {line.format(finding=w, topic=w, scale=w): kind for w in words}
    met = set()
    scored = replace(DIABETIC, grade={"csdi": 4.0})
    for i, record in enumerate([*records, *records, DIABETIC, *[scored] * 4]):
        turns = converse(record, prompts, cfg, DIAGNOSES, np.random.default_rng(i))
        kinds = [kinds_of[t.content] for t in turns[1::2]]
        assert kinds == sorted(kinds, key=ORDER.index)
        assert not {"diagnosis", "grade"} <= set(kinds), "a grade gives the disease away, a stage its grade"
        assert len(set(turns)) == len(turns) or len({t.content for t in turns[1::2]}) == len(kinds)
        met |= set(kinds)
    assert met == set(CURRICULUM)


def test_how_questions_are_worded_is_the_configurations_choice(prompts):
    met = {}
    for phrasings in ("first", "few", "all"):
        rngs = [np.random.default_rng(i) for i in range(300)]
        met[phrasings] = {ask(DIABETIC, "diagnosis", prompts, (), rng, phrasings=phrasings).text for rng in rngs}
    lines = prompts.questions["diagnosis"]
    assert met == {"first": {lines["ask"][0]}, "few": set(lines["ask"]), "all": {*lines["ask"], *lines["more"]}}


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("- What is the diagnosis?", "- What is the {finding}?", "'What is the {finding}?' must hold no"),
        ("- Do you see {finding}?", "- Do you see it?", "presence.ask: 'Do you see it?' must hold {finding}"),
        ("- How many {finding} are there?", "- How many {finding are there?", "count.ask: "),
        ("    amd: [pattern_dystrophy", "    amd: [patern_dystrophy", "'patern_dystrophy' is not in the vocabulary"),
        ("    icdr: diabetic", "    icdx: diabetic", "grade.scales: 'icdx' is no grading scale"),
        ("diagnosis:\n  ask:", "diagnosis:\n  asks:", "diagnosis.ask: must be a list"),
        ("diagnosis:\n  ask:", "diagnosis: [\n  ask:", "cannot be read"),
        ("    amd: [pattern_dystrophy", "    AMD: [pattern_dystrophy", "'AMD': write amd, the canonical name"),
        ('    - [null, "More than twenty."]', '    - [50, "More than twenty."]', "count.bands: the upper ends must be"),
        ('    - [5, "One to five."]', '    - [25, "One to five."]', "count.bands: the upper ends must rise"),
        ('    - [5, "One to five."]', "    - One to five.", "count.bands: must be a list of [upper end, answer]"),
        ('    - [2, "Within two', '    - [2, ""] # [2, "Within two', "distance.bands: each band must have an answer"),
        ('  answer: "Grade {value}: {name}."', '  answer: "{grade}"', "'{grade}' must hold {value} and {name}"),
        ('  "yes": "Yes."', '  yes: "Yes."', "presence.yes: None must be a text"),
        ("    glaucoma: Measure", "    glaucoma: # Measure", "by_diagnosis: glaucoma: must be followed by a text"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_questions_is_named(tmp_path, prompts, old, new, part):
    shutil.copytree(prompts.folder, tmp_path / "prompts")
    file = tmp_path / "prompts" / "questions.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        Prompts(tmp_path / "prompts")
    assert part in str(error.value) and "questions.yaml" in str(error.value)


def test_a_mistake_in_the_recommendations_is_named(tmp_path, prompts):
    shutil.copytree(prompts.folder, tmp_path / "prompts")
    file = tmp_path / "prompts" / "recommendations.yaml"
    file.write_text(file.read_text().replace("default: ", "defualt: ").replace("wet_amd:", "wet amd:"))
    with pytest.raises(UserError) as error:
        answer(DIABETIC, "refer", Prompts(tmp_path / "prompts"))
    for part in ("recommendations.yaml", "`default: …` is missing", "'wet amd': write wet_amd", "'defualt' is not in"):
        assert part in str(error.value)


def test_a_prompts_folder_older_than_a_question_says_what_to_copy(tmp_path, prompts):
    shutil.copytree(prompts.folder, tmp_path / "prompts")
    (tmp_path / "prompts" / "recommendations.yaml").unlink()
    file = tmp_path / "prompts" / "questions.yaml"
    file.write_text(file.read_text().partition("\nfind:")[0])
    older = Prompts(tmp_path / "prompts")
    assert answer(DIABETIC, "diagnosis", older)
    assert answer(DIABETIC, "refer", prompts)
    assert older.recommendations == prompts.recommendations
    with pytest.raises(UserError, match="has no section `find:`"):
        answer(DIABETIC, "find", older)
