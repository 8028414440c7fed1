"""Text generation on the whole model: the photograph is seen once, before the first token.

Shapes: B rows (one photograph each), T prompt tokens, S encoder side, U U-Net side, K tiles at most a photograph.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from mdf.models.configuration import CACHE
from mdf.models.language import bare, has_tower
from mdf.models.mllama import cross_layers, holds_photograph, see_tiles
from mdf.tiles import cross_attention_mask


class FusedGenerationMixin(GenerationMixin):
    """transformers' generation for `MDFModel`: prefix, image states and the adapters' keys travel as arguments."""

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        unet_pixels: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:  # type: ignore[override]
        """transformers' `generate`; prefix and adapters' keys and values are computed once, before the first token.

        Rows of unequal length are padded on the left. The image placeholder is never generated.
        """
        was, _ = self.training, self.eval()
        if has_tower(self.language) and kwargs.get("aspect_ratio_mask") is not None:
            image = self.processor.image_token_id
            kwargs["cross_attention_mask"] = cross_attention_mask(input_ids, image, kwargs["aspect_ratio_mask"])
        if pixel_values is not None and self.fusion.lacks(kwargs.get("prefix"), None, kwargs.get("memory_kv")):
            prompt = self.prompt_of(input_ids, prompt_mask)
            with self.precision():
                _, kwargs["prefix"], memory, _ = self.see(pixel_values, unet_pixels, prompt)
                if memory is not None:
                    kwargs["memory_kv"] = self.fusion.memory_kv(memory)
        with self.precision():
            kwargs = see_tiles(bare(self.language), kwargs)
        kwargs.setdefault("suppress_tokens", [self.processor.image_token_id])
        kwargs.setdefault("pad_token_id", self.processor.pad_id)
        kwargs.setdefault("eos_token_id", list(self.processor.end_ids))
        if kwargs.get("do_sample") is False:  # the language model's own sampling settings do not go with that
            kwargs = {"temperature": None, "top_p": None, "top_k": None} | kwargs
        out = super().generate(input_ids, attention_mask=attention_mask, **kwargs)
        self.train(was)
        return out

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The next step's inputs: Mllama's image states only until they are cached, its mask for the step's tokens."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if (mask := inputs.get("cross_attention_mask")) is not None:
            inputs["cross_attention_mask"] = mask[:, -inputs["input_ids"].shape[1] :]
            if holds_photograph(inputs.get(CACHE), bare(self.language).config):
                inputs["cross_attention_states"] = None
        return inputs

    def _prepare_static_cache(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' static cache, with room for a photograph's keys in Mllama's cross-attention layers.

        transformers 5.24 gives these the room of the text, and writes beyond it.
        """
        from transformers.cache_utils import StaticLayer

        cache = super()._prepare_static_cache(*args, **kwargs)
        states = kwargs["model_kwargs"].get("cross_attention_states")
        for layer in cross_layers(self.config.get_text_config()) if states is not None else ():
            cache.layers[layer] = StaticLayer(max_cache_len=states.shape[1])
        return cache

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: dict, *args: Any, **kwargs: Any) -> dict:
        """A new token reads what the last one did, as in Mllama's own generation."""
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        if (mask := model_kwargs.get("cross_attention_mask")) is not None:
            new = kwargs.get("num_new_tokens", 1)
            model_kwargs["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, new, -1, -1)], 1)
        return model_kwargs
