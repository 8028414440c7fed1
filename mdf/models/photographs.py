"""How the model of a configuration wants its photographs: their sizes, colours and tiles."""

from typing import Any

from mdf.config import Config
from mdf.errors import UserError
from mdf.imaging.preprocess import Preprocessing
from mdf.imaging.recipe import Recipe
from mdf.models import unet_weights, zoo
from mdf.models.fundus_encoder import statistics
from mdf.models.language import has_tower
from mdf.models.towers import resolve
from mdf.models.weights import language_path
from mdf.tiles import load_image_processor


def preprocessing_of(cfg: Config) -> Preprocessing:
    """How the model of a configuration wants its photographs."""
    encoder = None if cfg.encoder.size and zoo.reference(cfg.encoder.weights)[0] is None else resolve(cfg.encoder)
    side = cfg.encoder.size if encoder is None else encoder["vision_cfg"]["image_size"]
    encoder_mean, encoder_std = statistics(cfg.encoder)
    unet_mean, unet_std = unet_weights.statistics(cfg.unet)
    made = Preprocessing(
        encoder_size=side[0] if isinstance(side, list | tuple) else side,
        unet_size=cfg.unet.size,
        encoder_mean=encoder_mean,
        encoder_std=encoder_std,
        unet_mean=unet_mean,
        unet_std=unet_std,
        resize=cfg.encoder.resize,
        language_size=cfg.language.image_size,
    )
    return as_released(made, encoder or {})


def as_released(preprocessing: Preprocessing, architecture: dict[str, Any]) -> Preprocessing:
    """The same with the recipe of a released encoder, where the architecture is of one."""
    if "recipe" not in architecture:
        return preprocessing
    return preprocessing.with_recipe(Recipe.from_dict(architecture["recipe"]))


def image_processor_of(cfg: Config) -> Any:
    """The image processor of a vision language model. Raises UserError where the folder has none."""
    return load_image_processor(language_path(cfg.language.model, cfg.language.revision), cfg.language.revision)


def refuse_sizes(cfg: Config, language: Any) -> None:
    """Raises UserError where the photograph's size does not go with the language model, or its text does not fit."""
    size, vision = cfg.language.image_size, has_tower(language)
    if vision and not size:
        side = language.config.vision_config.image_size
        raise UserError(
            f"language.image_size: {cfg.language.model!r} has a vision tower of its own; "
            f"set the side of its photographs in pixels, {side} for one tile"
        )
    if size and not vision:
        raise UserError(f"language.image_size: {cfg.language.model!r} has no vision tower of its own; set it to 0")
    context = language.config.get_text_config().max_position_embeddings
    if cfg.dialogue.max_length > context:
        raise UserError(
            f"dialogue.max_length: {cfg.dialogue.max_length} tokens, and {cfg.language.model!r} reads {context} at most"
        )
