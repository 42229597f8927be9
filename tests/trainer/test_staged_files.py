"""Files that are serialised out of memory: torch, safetensors and torch's distributed checkpoints read them like those from disk."""

from __future__ import annotations

from typing import Any

from finetune_trainer.testing_ranks import RankServer


def test_staged_files_are_what_the_libraries_would_have_written(ranks: RankServer, tmp_path: Any) -> None:
    found = ranks.call("finetune_trainer.testing_staging:formats_case", folder=str(tmp_path))

    assert found["torch"] == "as torch.save writes it"
    assert found["safetensors"] == {"read": True, "metadata": {"format": "pt"}}
    assert found["shards"] == {"read": True, "lengths": True}


def test_a_copy_does_not_change_with_its_original_and_its_memory_is_used_again(ranks: RankServer) -> None:
    found = ranks.call("finetune_trainer.testing_staging:copies_case")

    assert found == {"kept": True, "same_memory": True, "shared_stays_shared": True}


def test_only_files_of_the_checkpoint_are_taken_and_torch_is_itself_again_afterwards(
    ranks: RankServer, tmp_path: Any
) -> None:
    found = ranks.call("finetune_trainer.testing_staging:capture_case", folder=str(tmp_path))

    assert found == {"taken": ["inside.pt"], "on_disk": ["outside.pt"], "restored": True}
