"""What the tracker counts and what a GPU's operators keep, on single operations whose bytes can be worked out by hand."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune_trainer.oracle.__main__ import main
from finetune_trainer.oracle.gpu_operators import GpuOperators
from finetune_trainer.oracle.peak_tracker import PeakTracker, TracedPhase, allocated
from finetune_trainer.oracle.setting import Precision, TracedMethod, TraceSetting

KIB = 2**10


def tracked() -> tuple[PeakTracker, FakeTensorMode, GpuOperators]:
    tracker = PeakTracker()
    return tracker, FakeTensorMode(), GpuOperators(tracker, kernel_workspace=False)


def test_sizes_are_rounded_up_to_blocks_of_512_bytes() -> None:
    assert [allocated(size) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]


def test_a_storage_counts_once_from_birth_to_death_and_views_are_free() -> None:
    tracker, fake, _ = tracked()
    with fake, tracker.mode():
        tensor = torch.empty(1024, dtype=torch.float32)
        view = tensor.view(32, 32).t()
        assert tracker.live == 4 * KIB
        other = view + 1
        assert tracker.live == 8 * KIB
        del tensor, view
        assert tracker.live == 4 * KIB
        del other
    assert tracker.live == 0
    assert tracker.peaks[TracedPhase.SETUP].nbytes == 8 * KIB


def test_flash_attention_keeps_query_key_value_output_and_a_number_per_row() -> None:
    tracker, fake, operators = tracked()
    with fake, tracker.mode(), operators:
        query = torch.empty(1, 8, 512, 64, dtype=torch.bfloat16, requires_grad=True)
        key = torch.empty(1, 2, 512, 64, dtype=torch.bfloat16, requires_grad=True)
        before = tracker.live
        out = F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
        kept = tracker.live - before
    assert out.shape == query.shape
    assert kept == pytest.approx(2 * 8 * 512 * 64 + 4 * 8 * 512, abs=4 * KIB)


def test_scores_are_kept_where_no_fused_kernel_takes_grouped_heads() -> None:
    tracker, fake, operators = tracked()
    with fake, tracker.mode(), operators:
        query = torch.empty(1, 8, 512, 64, requires_grad=True)
        key = torch.empty(1, 2, 512, 64, requires_grad=True)
        before = tracker.live
        out = F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
        kept = tracker.live - before
    assert out.requires_grad
    assert kept > 4 * 8 * 512 * 512


def test_dropout_keeps_one_byte_per_element() -> None:
    tracker, fake, operators = tracked()
    with fake, tracker.mode(), operators:
        tensor = torch.empty(1024, 1024, dtype=torch.bfloat16, requires_grad=True)
        before = tracker.live
        out = F.dropout(tensor, 0.1)
        assert tracker.live - before == 3 * 1024 * KIB
        del out
        assert tracker.live == before


def test_layer_norm_under_autocast_gives_float32_as_cuda_does() -> None:
    _, fake, operators = tracked()
    with fake, operators, torch.autocast("cpu", dtype=torch.bfloat16):
        tensor = torch.empty(4, 64, dtype=torch.bfloat16)
        assert F.layer_norm(tensor, (64,)).dtype is torch.float32
        assert F.linear(tensor, torch.empty(64, 64)).dtype is torch.bfloat16


def test_a_setting_that_contradicts_itself_names_the_field() -> None:
    with pytest.raises(ValueError, match="micro_batch is 0"):
        TraceSetting(micro_batch=0)
    with pytest.raises(ValueError, match="precision of qlora"):
        TraceSetting(method=TracedMethod.QLORA, precision=Precision.FLOAT32)


def test_the_command_prints_the_peak_and_numbers_of_an_unknown_architecture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    widths = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "vocab_size": 4096}
    config.write_text(json.dumps({"model_type": "llama", **widths, "num_hidden_layers": 8}))
    main(["--config", str(config), "--sequence-length", "256"])
    peak = json.loads(capsys.readouterr().out)
    assert peak["peak_bytes"] == max(phase["peak"] for phase in peak["phases"].values())
    main(["--config", str(config), "--architecture"])
    numbers = json.loads(capsys.readouterr().out)
    (layer,) = numbers["layers"]
    parameters = sum(prod(tensor["shape"]) * tensor["copies"] for tensor in layer["tensors"])
    assert (layer["copies"], parameters) == (8, 4 * 256 * 256 + 3 * 256 * 512 + 2 * 256)
    kept = {(each["method"], each["precision"]): each["kept"]["perToken"] for each in numbers["passes"]}
    # estimator: 16h + 4q + 4k + 8f + 4n + 8.
    assert kept["full", "bf16"] == pytest.approx(24 * 256 + 8 * 512 + 4 * 4 + 8, rel=0.01)


def test_a_config_that_is_no_json_ends_the_command_with_its_name(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{")
    with pytest.raises(SystemExit, match="--config"):
        main(["--config", str(config)])
