"""What the launcher asked for is understood, and what cannot be done is refused before anything is loaded."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mdf.config import PartConfig
from mdf.errors import UserError
from mdf.training import devices
from mdf.training.devices import agree, choose_precision, choose_threads, forget_accelerator, make_accelerator
from mdf.training.launch import Launch, check_launch, launched
from mdf.training.run import train

REPO = Path(__file__).resolve().parents[2]
FILES = sorted((REPO / "configs" / "accelerate").glob("*.yaml"))
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "WORLD_SIZE": "2"}
EXPECTED = {  # processes that one machine starts, and how training is spread over them
    "cpu": (1, "none"),
    "ddp_cpu": (2, "none"),
    "single_gpu": (1, "none"),
    "ddp": (2, "none"),
    "fsdp2": (2, "fsdp2"),
    "deepspeed_zero2": (2, "zero2"),
    "deepspeed_zero3": (2, "zero3"),
    "multi_node": (2, "none"),
}


@pytest.fixture
def environment(monkeypatch):
    """environment(**variables): what the launcher exports, and nothing that this test itself was started with."""

    def export(**variables: str) -> None:
        for name in list(os.environ):
            if name.startswith(("ACCELERATE_", "FSDP_")) or name in ("WORLD_SIZE", "MASTER_ADDR"):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    export()
    return export


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_accelerate_reads_each_file_and_mdf_what_it_exports(file, environment):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    header = "".join(line for line in file.read_text().splitlines(True) if line.startswith("#"))
    assert f"accelerate launch --config_file configs/accelerate/{file.name}" in header and "scripts/train.py" in header
    args, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(file), "--main_process_port", "0", "scripts/train.py"])
    )
    processes, sharding = EXPECTED[file.stem]
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ""
        _, exported = prepare_deepspeed_cmd_env(args)
    elif args.multi_gpu or args.use_fsdp:
        exported = prepare_multi_gpu_env(args)
    else:
        _, exported = prepare_simple_launcher_cmd_env(args)
    assert int(getattr(args, "nproc_per_node", 1)) == processes
    several = {"WORLD_SIZE": str(args.num_processes)} if args.num_processes > 1 else {}  # which torchrun exports
    environment(
        **{name: value for name, value in exported.items() if "ACCELERATE" in name or "FSDP" in name}, **several
    )
    assert launched() == Launch(args.num_processes, sharding)


def test_no_launcher_is_one_whole_process(environment):
    assert launched() == Launch(1, "none")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, r"fsdp_version: 1 .* set fsdp_version: 2"),
        (FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params: true is not supported"),
        (ZERO3 | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "deepspeed_config_file: ds.json is not read"),
        (ZERO3 | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, "offload_param_device: cpu is not supported"),
        (ZERO3 | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, r"zero_stage: 1 is not supported; .*ddp\.yaml"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not supported"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend: compiled models are not supported.*set it to no"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"},
            "several processes were asked for and only this one was started.*ddp_cpu.yaml",
        ),
    ],
)
def test_what_mdf_does_not_train_with_is_refused(environment, variables, said):
    environment(**variables)
    with pytest.raises(UserError, match=said):
        launched()


@pytest.mark.parametrize(
    ("settings", "launch", "said"),
    [
        ({}, Launch(1, "fsdp2"), "one process shards nothing; .*single_gpu.yaml"),
        ({"run.stages": ("align",)}, Launch(2, "fsdp2"), "align.losses.contrastive with fsdp2.*run.start_from"),
        ({"run.stages": ("fuse",), "fuse.ema": 0.99}, Launch(2, "fsdp2"), r"fuse.ema with fsdp2.*fuse\.ema=0"),
    ],
)
def test_settings_that_this_launch_cannot_train_are_refused(tiny, settings, launch, said):
    cfg = tiny(**settings)
    with pytest.raises(UserError, match=said):
        check_launch(cfg, launch)
    check_launch(cfg, Launch(2, "none"))


def test_without_deepspeed_its_files_are_refused_and_a_way_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as where it is not installed
    cfg = tiny(**{"run.stages": ("fuse",)})
    with pytest.raises(UserError, match=r"DeepSpeed is not installed: pip install .*fsdp2\.yaml"):
        check_launch(cfg, Launch(2, "zero2"))


def quantized(cfg, quantize: str):
    return SimpleNamespace(run=cfg.run, fuse=cfg.fuse, language=SimpleNamespace(quantize=quantize))


def test_a_4_bit_base_is_not_sharded(tiny):
    small = quantized(tiny(**{"run.stages": ("fuse",)}), "nf4")
    with pytest.raises(UserError, match=r"language\.quantize: nf4 with fsdp2: (.|\n)*ddp\.yaml"):
        check_launch(small, Launch(2, "fsdp2"))
    check_launch(small, Launch(2, "none"))


def test_an_8_bit_base_is_not_trained_in_full(tiny):
    full = {"run.stages": ("fuse",), "fuse.parts.language": PartConfig("full", 1e-4)}
    with pytest.raises(UserError, match=r"mode: full with language\.quantize: int8: .*set fuse.*mode=lora"):
        check_launch(quantized(tiny(**full), "int8"), Launch())


def test_nothing_is_loaded_or_written_before_a_refusal(tiny, environment, monkeypatch):
    environment(**FSDP2)
    monkeypatch.setattr("mdf.training.run.make_accelerator", lambda *_: pytest.fail("too late"))
    cfg = tiny()
    with pytest.raises(UserError, match=r"align\.losses\.contrastive"):
        train(cfg)
    assert not (Path(cfg.run.dir) / cfg.run.name).exists()


def test_processes_that_were_not_started_alike_are_told_how_they_differ(monkeypatch):
    accelerator = SimpleNamespace(num_processes=2, is_local_main_process=True)
    alike = {"settings": {"run": {"seed": 0}}, "processes of this machine": "1"}
    other = {"settings": {"run": {"seed": 1}}, "processes of this machine": "2"}

    def everyone(*found):
        monkeypatch.setattr("accelerate.utils.gather_object", lambda _: list(found))

    everyone((None, alike), (None, alike))
    agree(accelerator, None, alike)
    everyone((None, alike), (None, other))
    with pytest.raises(UserError) as caught:
        agree(accelerator, None, alike)
    assert str(caught.value).splitlines() == [
        "processes were not started alike:",
        "  settings.run.seed: 0 on process 0, 1 on process 1",
        "  processes of this machine: '1' on process 0, '2' on process 1",
    ]
    everyone((None, alike), ("no such run", alike))
    with pytest.raises(UserError, match=r"^process 1 of 2: no such run$"):
        agree(accelerator, None, alike)
    everyone(("no such run", alike), ("no such run", alike))
    with pytest.raises(UserError, match=r"^no such run$"):
        agree(accelerator, None, alike)
    accelerator.is_local_main_process = False
    with pytest.raises(SystemExit) as left:
        agree(accelerator, None, alike)
    assert left.value.code == 2


def test_every_kind_of_launch_has_its_file():
    assert {file.stem for file in FILES} == EXPECTED.keys()


def test_accumulation_of_the_launchers_own_does_not_divide_gradients_again(tiny, environment):
    environment(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4", ACCELERATE_USE_CPU="true")
    try:
        accelerator = make_accelerator(tiny().run, "fp32")
        assert accelerator.gradient_accumulation_steps == 1
        weight = torch.nn.Parameter(torch.ones(()))
        accelerator.backward(3 * weight)
        assert weight.grad == 3
    finally:
        forget_accelerator()


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "kernels", "chosen"),
    [
        (True, False, True, "bf16"),
        (False, True, True, "bf16"),
        (False, False, True, "fp32"),
        (True, True, False, "fp32"),
    ],
)
def test_bf16_is_chosen_by_itself_only_where_the_processor_computes_in_it(
    monkeypatch, avx512_bf16, amx, kernels, chosen
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: kernels)
    assert choose_precision("auto", cuda=False)[0] == chosen
    assert choose_precision("fp32", cuda=False) == ("fp32", "run.precision")


@pytest.mark.parametrize(
    ("variables", "wanted", "processes", "threads"),
    [
        ({}, 0, 1, 6),
        ({}, 0, 2, 3),
        ({"OMP_NUM_THREADS": "2"}, 0, 1, None),  # the user's own
        ({"OMP_NUM_THREADS": "1"}, 0, 1, None),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 0, 2, 3),  # the launcher's
        ({"OMP_NUM_THREADS": "4", "ACCELERATE_MIXED_PRECISION": "no"}, 0, 1, None),
        ({"OMP_NUM_THREADS": "4"}, 5, 1, 5),
    ],
)
def test_the_launchers_one_thread_is_not_taken_for_the_users_own(
    environment, monkeypatch, variables, wanted, processes, threads
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment(**variables)
    monkeypatch.setattr(devices, "cores", lambda: 6)
    assert choose_threads(wanted, processes) == threads


def test_fewer_processes_than_were_asked_for_are_refused(tiny, environment):
    environment(ACCELERATE_USE_CPU="true")
    try:
        with pytest.raises(UserError, match="2 processes were asked for and 1 take part"):
            make_accelerator(tiny().run, "fp32", Launch(2))
    finally:
        forget_accelerator()
