import numpy as np

from mdf.evaluation.retrieval import ranks, retrieval_metrics


def test_photographs_with_the_same_caption_are_all_right_answers():
    texts = np.eye(3)[:2]  # two captions
    images = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 1, 0]], dtype=float)
    caption_of = np.array([0, 0, 1])  # the second looks more like the other caption
    image_to_text, text_to_image = ranks(images, texts, caption_of)
    assert image_to_text.tolist() == [0, 1, 0]
    assert text_to_image.tolist() == [0, 0, 0]  # caption 0 finds its first photograph
    metrics = retrieval_metrics(images, texts, caption_of, list("abc"))
    assert metrics["image_to_text_r1"] == 2 / 3 and metrics["text_to_image_r1"] == 1.0
    assert metrics["captions"] == 2 and metrics["image_to_text_r5"] == 1.0


def test_a_model_that_embeds_everything_alike_finds_nothing():
    metrics = retrieval_metrics(np.ones((12, 2)), np.ones((12, 2)), np.arange(12), [str(i) for i in range(12)])
    assert metrics["image_to_text_r1"] == metrics["text_to_image_r5"] == 0
