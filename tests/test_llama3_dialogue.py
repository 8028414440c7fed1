"""Conversations in the templates of Llama 3: token ids are those of the model's own template, today and next year."""

from copy import deepcopy

import pytest

from mdf.chat_template import DATE
from mdf.dialogue import IGNORED, Turn, encode, encode_apart
from mdf.errors import UserError
from mdf.processor import IMAGE_TOKENS, OWN_IMAGE_TOKEN, PAD_TOKENS, MDFProcessor, choose_token
from tests.tiny_mllama import llama3_tokenizer

TALK = [
    Turn("system", "You read colour fundus photographs."),
    Turn("user", "What is the diagnosis?"),
    Turn("assistant", "Diabetic retinopathy."),
    Turn("user", "Are there drusen?\nAnd where?"),
    Turn("assistant", "No. There are none."),
]
TEXT_IMAGE = "<|reserved_special_token_0|>"


@pytest.fixture(scope="module")
def vision():
    return llama3_tokenizer(vision=True)


@pytest.fixture(scope="module")
def text():
    return llama3_tokenizer(vision=False)


def own_ids(tokenizer, messages, generate=False):
    """What the model's own template makes of messages, on a day that stands still."""
    kept = {"tokenize": True, "add_generation_prompt": generate, "return_dict": False, "date_string": DATE}
    return tokenizer.apply_chat_template(messages, **kept)


def of_text(turns, images):
    first = f"{TEXT_IMAGE * images}\n{turns[1].content}"
    contents = [turns[0].content, first, *(t.content for t in turns[2:])]
    return [{"role": t.role, "content": c} for t, c in zip(turns, contents, strict=True)]


def of_vision(turns):
    words = f"{turns[0].content}\n\n{turns[1].content}"
    first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}
    return [first, *({"role": t.role, "content": [{"type": "text", "text": t.content}]} for t in turns[2:])]


def test_an_answer_ends_where_training_ended_it_whatever_the_tokenizer_calls_its_end(text):
    """Fine-tunes of the base keep its end of text, and their template ends a turn with another token."""
    processor = MDFProcessor.__new__(MDFProcessor)
    processor.tokenizer, processor.image_token, processor.image_tokens = deepcopy(text), TEXT_IMAGE, 4
    turn, document = (text.convert_tokens_to_ids(t) for t in ("<|eot_id|>", "<|end_of_text|>"))
    assert processor.end_ids == (turn,)
    other = MDFProcessor.__new__(MDFProcessor)
    other.tokenizer, other.image_token, other.image_tokens = processor.tokenizer, TEXT_IMAGE, 4
    other.tokenizer.eos_token = "<|end_of_text|>"
    assert other.end_ids == (turn, document)


@pytest.mark.parametrize("last", [2, 3, 4, 5])
def test_token_ids_are_those_of_the_models_own_template(text, vision, last):
    turns, generate = TALK[:last], last % 2 == 0
    made = encode(turns, text, TEXT_IMAGE, 4, generate=generate)
    assert made.input_ids == own_ids(text, of_text(turns, 4), generate)
    made = encode(turns, vision, OWN_IMAGE_TOKEN, 1, generate=generate)
    assert made.input_ids == own_ids(vision, of_vision(turns), generate)


def test_every_conversation_has_one_bos_and_the_photograph_its_place(text, vision):
    for tokenizer, image, count in ((text, TEXT_IMAGE, 4), (vision, OWN_IMAGE_TOKEN, 1)):
        ids = encode(TALK, tokenizer, image, count).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
        at = [i for i, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids(image)]
        assert at == list(range(at[0], at[0] + count))
        assert tokenizer.decode(ids[: at[0]]).endswith("<|start_header_id|>user<|end_header_id|>\n\n")


def test_the_day_of_training_is_not_written_into_it(text):
    """The template writes today's date where it can."""
    messages = of_text(TALK, 1)
    assert "26 Jul 2024" not in text.apply_chat_template(messages, tokenize=False)
    assert "Today Date: 26 Jul 2024" in text.decode(encode(TALK, text, TEXT_IMAGE, 1).input_ids)


def test_answers_are_supervised_to_their_end_of_turn_and_the_image_token_never(vision):
    made = encode(TALK, vision, OWN_IMAGE_TOKEN, 1)
    spans, open_span = [], []
    for label in [*made.labels, IGNORED]:
        if label != IGNORED:
            open_span.append(label)
        elif open_span:
            spans.append(vision.decode(open_span))
            open_span = []
    assert spans == ["Diabetic retinopathy.<|eot_id|>", "No. There are none.<|eot_id|>"]
    assert vision.convert_tokens_to_ids(OWN_IMAGE_TOKEN) not in made.labels


def test_padding_end_and_placeholder_are_tokens_of_their_own(text, vision):
    for tokenizer, names in ((text, IMAGE_TOKENS), (vision, (OWN_IMAGE_TOKEN,))):
        pad, image = choose_token(tokenizer, PAD_TOKENS, "a use"), choose_token(tokenizer, names, "a use")
        assert pad == "<|finetune_right_pad_id|>"
        assert len({pad, image, tokenizer.eos_token, tokenizer.bos_token}) == 4


def test_a_template_that_allows_a_system_prompt_beside_an_image_gets_one(vision):
    import copy

    newer = copy.copy(vision)
    newer.chat_template = (
        vision.chat_template.replace("raise_exception(", "string(")
        .replace("{%- if not image_ns.has_images %}", "{%- if true %}")
        .replace("{{- string('Prompting with images is incompatible with system messages.') }}", "")
    )
    ids = encode(TALK, newer, OWN_IMAGE_TOKEN, 1).input_ids
    messages = [{"role": "system", "content": TALK[0].content}, *of_vision([Turn("system", ""), *TALK[1:]])]
    messages[1]["content"][1]["text"] = TALK[1].content
    assert ids == own_ids(newer, messages)
    assert newer.decode(ids).count(TALK[0].content) == 1


def test_apart_each_question_has_the_tokens_it_has_alone(text, vision):
    for tokenizer, image, count in ((text, TEXT_IMAGE, 4), (vision, OWN_IMAGE_TOKEN, 1)):
        apart = encode_apart(TALK, tokenizer, image, count)
        shared = tokenizer.decode(apart.input_ids[: apart.shared])
        assert TALK[0].content in shared and not any(t.content[:4] in shared[-12:] for t in TALK[1:])
        for number in (1, 2):
            alone = encode([TALK[0], *TALK[2 * number - 1 : 2 * number + 1]], tokenizer, image, count)
            mine = [i for i, b in zip(apart.input_ids, apart.branch, strict=True) if b in (0, number)]
            assert mine == alone.input_ids


def test_too_long_a_conversation_loses_turns_and_keeps_the_system_prompt_once(vision):
    whole = encode(TALK, vision, OWN_IMAGE_TOKEN, 1)
    cut = encode(TALK, vision, OWN_IMAGE_TOKEN, 1, max_length=len(whole.input_ids) - 1)
    assert cut == encode(TALK[:3], vision, OWN_IMAGE_TOKEN, 1) and cut.dropped == 1


@pytest.mark.parametrize(
    ("turns", "images", "limit", "said"),
    [
        (TALK, 64, 64, "takes 64 of dialogue.max_length=64 tokens"),
        (TALK[:3], 16, 40, "longer than dialogue.max_length=40"),
        ([*TALK[:2], Turn("assistant", f"a {TEXT_IMAGE}")], 4, 0, "stands for the photograph"),
        ([*TALK[:2], Turn("assistant", "No.<|eot_id|>")], 4, 0, "<|eot_id|>"),
    ],
)
def test_what_does_not_fit_or_names_the_photograph_is_refused(text, turns, images, limit, said):
    with pytest.raises(UserError, match=said):
        encode(turns, text, TEXT_IMAGE, images, max_length=limit)


def test_a_model_without_a_chat_template_is_refused(text):
    import copy

    base = copy.copy(text)
    base.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encode(TALK, base, TEXT_IMAGE, 1)
