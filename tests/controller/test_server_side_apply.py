"""The fake merges as the API server does: each rule of server-side apply that the controller relies on, one by one."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.controller.kube import CONFIG_MAPS, FINETUNE_JOBS, JOBS, Conflict, Invalid, NotFound
from finetune_operator.testing import FakeApi, config_map, finetune_job, indexed_job
from finetune_operator.testing.server_side_apply import Schema, apply, leaves


async def test_applying_the_same_object_again_moves_no_resource_version() -> None:
    api = FakeApi()
    first = await api.apply(indexed_job())
    assert await api.apply(indexed_job()) == first


async def test_a_field_that_its_only_manager_no_longer_applies_is_removed() -> None:
    api = FakeApi()
    await api.apply(config_map("a", {"x": "1", "y": "2"}, immutable=False))
    after = await api.apply(config_map("a", {"x": "1"}, immutable=False))
    assert after["data"] == {"x": "1"}


async def test_a_field_that_another_manager_applies_too_stays() -> None:
    api = FakeApi()
    await api.apply(config_map("a", {"x": "1", "y": "2"}, immutable=False))
    await api.apply(config_map("a", {"y": "2"}, immutable=False), manager="other")
    after = await api.apply(config_map("a", {"x": "1"}, immutable=False))
    assert after["data"] == {"x": "1", "y": "2"}


async def test_without_force_a_field_of_another_manager_is_a_conflict_that_names_both() -> None:
    api = FakeApi()
    await api.apply(config_map("a", {"x": "1"}, immutable=False), manager="other")
    with pytest.raises(Conflict, match=r'conflict with "other": \.data\.x'):
        await api.apply(config_map("a", {"x": "2"}, immutable=False), force=False)


async def test_with_force_the_field_changes_its_manager() -> None:
    api = FakeApi()
    await api.apply(config_map("a", {"x": "1"}, immutable=False), manager="other")
    await api.apply(config_map("a", {"x": "2"}, immutable=False))
    after = await api.apply(config_map("a", {}, immutable=False), manager="other")
    assert after["data"] == {"x": "2"}


async def test_environment_variables_of_two_managers_merge_by_name() -> None:
    api = FakeApi()
    ours = indexed_job()
    await api.apply(ours)
    theirs = deepcopy(ours)
    theirs["spec"] = {
        "template": {"spec": {"containers": [{"name": "trainer", "env": [{"name": "EXTRA", "value": "1"}]}]}}
    }
    with pytest.raises(Invalid, match=r"spec\.template"):
        await api.apply(theirs, manager="other")


async def test_conditions_of_two_managers_live_side_by_side() -> None:
    api = FakeApi()
    await api.apply(finetune_job())
    await api.apply(finetune_job(status={"conditions": [{"type": "Accepted", "status": "True"}]}), subresource="status")
    after = await api.apply(
        finetune_job(status={"conditions": [{"type": "Running", "status": "True"}]}),
        subresource="status",
        manager="other",
    )
    assert [condition["type"] for condition in after["status"]["conditions"]] == ["Accepted", "Running"]


async def test_a_condition_that_is_no_longer_applied_goes() -> None:
    api = FakeApi()
    await api.apply(finetune_job())
    both = [{"type": "Accepted", "status": "True"}, {"type": "Stalled", "status": "True"}]
    await api.apply(finetune_job(status={"conditions": both}), subresource="status")
    after = await api.apply(finetune_job(status={"conditions": both[:1]}), subresource="status")
    assert after["status"]["conditions"] == both[:1]


async def test_progress_under_its_own_manager_survives_a_status_write_without_it() -> None:
    api = FakeApi()
    await api.apply(finetune_job())
    await api.apply(finetune_job(status={"progress": {"step": 5}}), subresource="status", manager="progress")
    after = await api.apply(finetune_job(status={"state": "Running"}), subresource="status")
    assert after["status"] == {"progress": {"step": 5}, "state": "Running"}


async def test_a_status_write_changes_neither_spec_nor_generation() -> None:
    api = FakeApi()
    await api.apply(finetune_job())
    after = await api.apply(
        finetune_job(spec={"run": {"suspend": True}}, status={"state": "Running"}), subresource="status"
    )
    assert "run" not in after["spec"]
    assert after["metadata"]["generation"] == 1


async def test_an_apply_ignores_the_status_it_carries() -> None:
    api = FakeApi()
    assert "status" not in await api.apply(finetune_job(status={"state": "Complete"}))


async def test_a_spec_change_moves_the_generation_and_a_label_does_not() -> None:
    api = FakeApi()
    await api.apply(finetune_job())
    labelled = await api.apply(finetune_job(metadata={"labels": {"a": "b"}}))
    assert labelled["metadata"]["generation"] == 1
    changed = await api.apply(finetune_job(spec={"run": {"suspend": True}}))
    assert changed["metadata"]["generation"] == 2


async def test_status_of_an_object_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="finetunejobs"):
        await FakeApi().apply(finetune_job(status={"state": "Running"}), subresource="status")


async def test_deleting_an_owner_collects_its_children() -> None:
    api = FakeApi()
    owner = await api.apply(finetune_job())
    child = indexed_job()
    child["metadata"]["ownerReferences"] = [{"uid": owner["metadata"]["uid"], "name": "tune"}]
    await api.apply(child)
    await api.delete(FINETUNE_JOBS, "team", "tune")
    assert api.names(JOBS) == []


async def test_the_same_name_again_has_another_uid() -> None:
    api = FakeApi()
    first = await api.apply(finetune_job())
    await api.delete(FINETUNE_JOBS, "team", "tune")
    second = await api.apply(finetune_job())
    assert first["metadata"]["uid"] != second["metadata"]["uid"]


async def test_a_delete_with_another_uid_is_refused() -> None:
    api = FakeApi()
    await api.apply(finetune_job())
    with pytest.raises(Conflict, match="precondition"):
        await api.delete(FINETUNE_JOBS, "team", "tune", uid="another")


async def test_a_put_with_an_old_resource_version_is_a_conflict() -> None:
    api = FakeApi()
    old = await api.create(config_map("a", {"x": "1"}, immutable=False))
    await api.replace({**old, "data": {"x": "2"}})
    with pytest.raises(Conflict, match="modified"):
        await api.replace({**old, "data": {"x": "3"}})


async def test_an_immutable_config_map_keeps_its_data() -> None:
    api = FakeApi()
    await api.apply(config_map("a", {"x": "1"}))
    with pytest.raises(Invalid, match="immutable"):
        await api.apply(config_map("a", {"x": "2"}))


async def test_lists_select_by_label_and_field() -> None:
    api = FakeApi()
    await api.apply(config_map("a", {}, labels={"team": "x"}))
    await api.apply(config_map("b", {}, labels={"team": "y"}))
    await api.apply(config_map("c", {}))
    by_label = await api.list(CONFIG_MAPS, "team", labels="team in (x,y),team!=y")
    by_field = await api.list(CONFIG_MAPS, fields="metadata.name=c")
    assert [item["metadata"]["name"] for item in (*by_label.items, *by_field.items)] == ["a", "c"]


_LEAVES = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2), max_size=3)
_DATA = st.fixed_dictionaries(
    {}, optional={"a": _LEAVES, "b": st.fixed_dictionaries({}, optional={"c": _LEAVES}), "d": st.integers(0, 2)}
)


@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), _DATA), max_size=6))
def test_what_a_manager_applied_last_is_there_unless_another_took_it(writes: list[tuple[str, dict[str, Any]]]) -> None:
    schema = Schema("ConfigMap")
    body: dict[str, Any] = {}
    managers: dict[tuple[str, str, str], frozenset[tuple[str, ...]]] = {}
    for manager, data in writes:
        config = {"data": data} if data else {}
        result = apply(schema, body, managers, config, (manager, "Apply", ""))
        body, managers = result.body, dict(result.managers)
        values = dict(leaves(schema, body))
        assert all(values[path] == value for path, value in leaves(schema, config) if path and value != {})
        again = apply(schema, body, managers, config, (manager, "Apply", ""))
        assert (again.body, again.managers) == (body, managers)
    owned = frozenset[tuple[str, ...]]().union(*managers.values())
    assert {path for path, value in leaves(schema, body) if path and value != {}} <= owned
