"""The fuse step against TRL's SFTTrainer with peft, and the memory of its loss against logits of all tokens at once.

The same on all sides of a step: language model with its frozen weights in the same precision, its attention, LoRA
(rank, alpha, targets), token ids and which of them are supervised, autocast, AdamW, the clipping, the threads. TRL and
the plain loop train the language model alone; ours reads photographs too: encoder and U-Net, frozen and computed or
kept from the first step on, and memory, adapters and prefix, which train. Photographs and tokens are random: the time
of a step does not depend on what they show.

TRL's loop is its own, unchanged: a callback at the beginning and the end of its steps takes the time and lets the
others have their turn. What it does between two steps (reading data, logging) is not counted.

Shapes: B rows, T text tokens, N supervised tokens, V vocabulary, d language width.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mdf.batches import Batch
from mdf.benchmarks import Benchmarks, Row, allocated, training_batch, wait_for
from mdf.errors import UserError
from mdf.losses.text import shift, text_loss, text_loss_by_rows
from mdf.models.language import attach_lora, load_language

LENGTHS = (128, 512)  # tokens of a conversation, half of them supervised
UNIT = "tokens/s"
VOCABULARY, WIDTH = 128_256, 512  # of the loss whose memory is measured: Llama 3's, and a narrow model's
TOKENS = 2048  # of a batch whose loss is measured, half of them supervised
FEATURES_GB = 4.0  # for what encoder and U-Net make of the photographs of one batch
WARM_UP = 2
INSTALL = "pip install 'mdf-mllm[benchmark]'"


def fuse(made: Benchmarks, repeats: int) -> list[Row]:
    """The rows of the benchmark `fuse`. Raises UserError without TRL."""
    need_trl()
    rows = [row for length in LENGTHS for row in step_rows(made, length, repeats)]
    return rows + loss_rows(made)


def need_trl() -> None:
    """Raises UserError where TRL is not installed."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise UserError(f"benchmark fuse compares with TRL, which does not load ({error}): {INSTALL}") from error


# -- the step ---------------------------------------------------------------------------------------------------------


def step_rows(made: Benchmarks, length: int, repeats: int) -> list[Row]:
    """Tokens a second of a training step on conversations of `length` tokens."""
    cfg = made.cfg
    batch = training_batch(cfg, made.fused, length).to(made.device)
    assert batch.input_ids is not None
    rows, length = batch.input_ids.shape
    made.say(
        f"fuse: noise for photographs, batch {rows}, {length} tokens, {batch.supervised} supervised; "
        f"U-Net {cfg.unet.encoder} at {cfg.unet.size}, frozen"
    )
    kept_cfg = replace(cfg, fuse=replace(cfg.fuse, augment=False, features_gb=FEATURES_GB))
    ours, kept = (made.training_step(settings, made.fused, batch) for settings in (cfg, kept_cfg))
    plain = plain_step(made, attach_lora(language_model(made), cfg.language), batch)
    found, _ = beside_trl(made, language_model(made), batch, [ours, kept, plain], repeats)
    trl, own, own_kept, other = ([rows * length / s for s in seconds] for seconds in found)
    name = f"fuse step, T {length}"
    return [
        Row(name, "TRL SFTTrainer, peft", UNIT, own, trl, bar=1.0),
        Row(f"{name}, features kept", "TRL SFTTrainer, peft", UNIT, own_kept, trl, bar=1.0),
        Row(name, "plain loop, peft", UNIT, own, other),
        Row(f"{name}, features kept", "plain loop, peft", UNIT, own_kept, other),
    ]


def language_model(made: Benchmarks) -> Any:
    """The language model alone, as transformers makes it."""
    language, _ = load_language(made.cfg.language, made.dtype)
    return language.requires_grad_(False).to(made.device)


def plain_step(made: Benchmarks, language: Any, batch: Batch) -> Callable[[], Tensor]:
    """One optimiser step as a user of transformers and peft writes it; returns the loss."""
    stage = made.cfg.fuse
    language.train()
    parameters = [p for p in language.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.parts.language.lr, betas=(0.9, stage.beta2), weight_decay=stage.weight_decay, fused=True
    )
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}

    def step() -> Tensor:
        with torch.autocast(made.device.type, torch.bfloat16, enabled=made.precision == "bf16"):
            loss = language(**given, use_cache=False).loss
        loss.backward()
        if stage.max_grad_norm:
            nn.utils.clip_grad_norm_(parameters, stage.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def beside_trl(
    made: Benchmarks, language: Any, batch: Batch, actions: Sequence[Callable[[], Any]], repeats: int
) -> tuple[list[list[float]], float]:
    """Seconds of TRL's step, then of each action, in each of `repeats` rounds after `WARM_UP` others; and the mean loss
    of TRL's steps.
    """
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    cfg, stage = made.cfg, made.cfg.fuse
    assert batch.input_ids is not None and batch.attention_mask is not None and batch.labels is not None
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
    seconds: list[list[float]] = [[] for _ in (0, *actions)]

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait_for(made.device)
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wait_for(made.device)
            taken = [time.perf_counter() - self.began]
            for action in actions:
                began = time.perf_counter()
                action()
                wait_for(made.device)
                taken.append(time.perf_counter() - began)
            if state.global_step > WARM_UP:
                for times, value in zip(seconds, taken, strict=True):
                    times.append(value)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        from datasets import Dataset

        settings = SFTConfig(
            output_dir=folder,
            max_steps=WARM_UP + repeats,
            per_device_train_batch_size=len(batch.input_ids),
            learning_rate=stage.parts.language.lr,
            adam_beta2=stage.beta2,
            weight_decay=stage.weight_decay,
            max_grad_norm=stage.max_grad_norm,
            bf16=made.precision == "bf16",
            use_cpu=made.device.type == "cpu",
            gradient_checkpointing=cfg.language.gradient_checkpointing,  # TRL's own default is true
            optim="adamw_torch_fused",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        rows = {"input_ids": batch.input_ids.tolist(), "labels": batch.labels.tolist()}
        trainer = SFTTrainer(
            model=language,
            args=settings,
            train_dataset=Dataset.from_dict(rows),
            processing_class=made.fused.processor.tokenizer,
            peft_config=LoraConfig(
                r=cfg.language.lora_rank,
                lora_alpha=cfg.language.lora_alpha,
                lora_dropout=cfg.language.lora_dropout,
                target_modules=list(cfg.language.lora_targets),
                task_type="CAUSAL_LM",
            ),
            data_collator=lambda _: {name: tensor.clone() for name, tensor in given.items()},
            callbacks=[Turns()],
        )
        loss = trainer.train().training_loss
    return seconds, loss


# -- the loss ---------------------------------------------------------------------------------------------------------


def loss_rows(made: Benchmarks) -> list[Row]:
    """Peak memory of loss and gradient, hidden states and head left out, at Llama 3's vocabulary."""
    hidden = torch.randn(TOKENS, WIDTH, device=made.device, dtype=made.dtype, requires_grad=True)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False, device=made.device, dtype=made.dtype).requires_grad_(False)
    labels = torch.randint(VOCABULARY, (1, TOKENS), device=made.device)
    labels[:, : TOKENS // 2] = -100
    keep, targets = (x[0] if x.ndim == 2 else x for x in shift(labels))

    def naive() -> None:  # as transformers' loss does
        wanted = torch.cat([labels[0, 1:], labels.new_tensor([-100])])
        nn.functional.cross_entropy(head(hidden).float(), wanted, ignore_index=-100, reduction="sum").backward()

    def supervised() -> None:
        text_loss(head(hidden[keep]), targets).backward()

    def by_rows() -> None:
        text_loss_by_rows(hidden[keep], head, targets).backward()

    made.say(f"loss: {TOKENS} tokens, {len(targets)} supervised, vocabulary {VOCABULARY:,}, width {WIDTH}")
    own, all_, some = ([allocated(action, made.device)[0] / 2**30] for action in (by_rows, naive, supervised))
    return [
        Row("loss memory", "logits of all tokens", "GiB", own, all_, bar=0.25, at_least=False),
        Row("loss memory", "logits of supervised tokens", "GiB", own, some),
    ]
