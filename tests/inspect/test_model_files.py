import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.exit_codes import ExitCode
from finetune_operator.api.inspection import ModelFacts
from finetune_operator.api.spec import ModelSource
from finetune_trainer import model_files, storage_hub
from finetune_trainer.failures import TrainerFailure
from finetune_trainer.model_files import describe_model, local_model, open_model
from finetune_trainer.storage import Storage, StorageRefused
from finetune_trainer.storage_hub import open_hub
from finetune_trainer.storage_location import parse_location
from finetune_trainer.testing_hub import COMMIT, serve_hub
from finetune_trainer.tokenizer_files import read_tokenizer


def facts(folder: Path, **fields: Any) -> ModelFacts:
    source = ModelSource.model_validate({"uri": f"file://{folder}", **fields})
    model = open_model(source)
    return describe_model(model, source, read_tokenizer(model.storage))


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def split_in_two(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "one.safetensors").write_bytes(weights)
    (folder / "two.safetensors").write_bytes(weights)
    index = {"weight_map": {"embed": "one.safetensors", "head": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_parameters_bytes_and_types_come_from_the_header(model: Path) -> None:
    found = facts(model)
    assert (found.architecture, found.parameters, found.weight_bytes) == ("LlamaForCausalLM", 136, 272)
    assert found.dtypes == {"BF16": 136}
    assert found.has_chat_template


def test_every_file_is_recorded_with_size_and_etag(model: Path) -> None:
    recorded = {file.uri.rsplit("/", 1)[1]: file.size for file in facts(model).files}
    assert recorded == {path.name: path.stat().st_size for path in model.iterdir()}


def test_a_header_longer_than_the_first_read_is_read_in_two(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.safetensors_headers.FIRST_READ_BYTES", 16)
    assert facts(model).parameters == 136


def test_shards_are_added_up(model: Path) -> None:
    split_in_two(model)
    assert facts(model).parameters == 272


def test_a_missing_shard_is_named(model: Path) -> None:
    split_in_two(model)
    (model / "two.safetensors").unlink()
    with pytest.raises(TrainerFailure, match=r"two\.safetensors is not there, but .* names it"):
        facts(model)


def test_a_tensor_that_is_in_no_shard_is_named(model: Path) -> None:
    split_in_two(model)
    index = {"weight_map": {"embed": "one.safetensors", "lost": "two.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TrainerFailure, match="the first is lost"):
        facts(model)


@pytest.mark.parametrize(("change", "words"), [(-1, "its header speaks of"), (-300, "cut short")])
def test_a_weight_file_that_is_cut_short_is_found_without_reading_it(model: Path, change: int, words: str) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:change])
    with pytest.raises(TrainerFailure, match=words) as failure:
        facts(model)
    assert failure.value.exit_code is ExitCode.BAD_DATA


def test_a_model_without_safetensors_says_what_there_is_instead(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(TrainerFailure, match=r"only \.bin files; save the model with save_pretrained"):
        facts(model)


def test_a_quantised_model_is_refused(model: Path) -> None:
    change_config(model, quantization_config={"quant_method": "gptq"})
    with pytest.raises(TrainerFailure, match=r"quantised \(gptq\)"):
        facts(model)


def test_a_model_with_foreign_code_is_refused_unless_the_spec_allows_it(model: Path) -> None:
    change_config(model, auto_map={"AutoConfig": "x.Y"}, model_type="novel")
    with pytest.raises(TrainerFailure, match=r"model\.trustRemoteCode: true") as failure:
        facts(model)
    assert failure.value.exit_code is ExitCode.BAD_SPEC
    assert facts(model, trustRemoteCode=True).parameters == 136


def test_a_relic_of_foreign_code_does_not_matter(model: Path) -> None:
    change_config(model, auto_map={"AutoConfig": "x.Y"}, model_type="phi3")
    assert facts(model).parameters == 136


def test_an_adapter_is_not_taken_for_a_model(model: Path) -> None:
    (model / "config.json").rename(model / "adapter_config.json")
    with pytest.raises(TrainerFailure, match="is an adapter"):
        facts(model)


def test_a_folder_without_config_is_refused_as_missing(tmp_path: Path) -> None:
    with pytest.raises(StorageRefused, match=r"nowhere/config\.json: it is not there"):
        facts(tmp_path / "nowhere")


def test_a_model_without_tokenizer_says_how_to_save_one(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(TrainerFailure, match=r"has no tokenizer\.json; save the tokenizer"):
        facts(model)


def test_the_reported_config_has_no_label_maps_and_no_long_texts(model: Path) -> None:
    change_config(model, id2label={"0": "a"}, deep={"long": "x" * 300, "short": "y", "list": ["x" * 300, 1]})
    config = facts(model).config
    assert "id2label" not in config
    assert config["deep"] == {"short": "y", "list": [1]}


def test_a_local_model_is_used_where_it_is(model: Path, tmp_path: Path) -> None:
    assert local_model(ModelSource(uri=f"file://{model}"), tmp_path / "copy") == model


def test_a_hub_model_is_downloaded_once_and_described_at_its_commit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(storage_hub, "RETRIES", 0)
    files = {path.name: path.read_bytes() for path in model.iterdir()} | {"pytorch_model.bin": b"not wanted"}
    source = ModelSource(uri="hf://org/name")
    with serve_hub("org/name", files) as endpoint:

        def at_endpoint(uri: str, *, revision: str | None = None) -> Storage:
            return open_hub(parse_location(uri), revision, endpoint)

        monkeypatch.setattr(model_files, "open_storage", at_endpoint)
        opened = open_model(source)
        assert describe_model(opened, source, read_tokenizer(opened.storage)).revision == COMMIT
        folder = local_model(source, tmp_path / "copy")
        before = (folder / "model.safetensors").stat().st_mtime_ns
        local_model(source, tmp_path / "copy")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [".download.json", *(set(files) - {"pytorch_model.bin"})]
    )
