"""Which pods get which Secret: each has the keys that its work needs, and no others."""

from finetune_operator.jobs.children import attempt_objects, inspect_job, publish_job
from finetune_operator.jobs.testing import SETTINGS, attempt_children, first_container, make_file, make_job, make_plan


def test_one_secret_for_model_and_storage_is_named_once() -> None:
    job = make_job(credentials={"model": {"secret": "both"}, "storage": {"secret": "both"}})
    assert first_container(inspect_job(job, SETTINGS))["envFrom"] == [{"secretRef": {"name": "both"}}]


def test_only_training_pods_get_the_judges_key() -> None:
    job = make_job(credentials={"judge": {"secret": "judge-key"}})
    file = make_file(job, make_plan())
    pods = (inspect_job(job, SETTINGS), attempt_objects(job, file, SETTINGS)[-1], publish_job(job, file, SETTINGS))
    assert [first_container(pod).get("envFrom") for pod in pods] == [None, [{"secretRef": {"name": "judge-key"}}], None]


def test_only_pods_that_train_get_the_keys_of_trackers() -> None:
    mlflow = {"uri": "https://mlflow.example.com", "experiment": "x", "secret": "shared"}
    tracking = {"wandb": {"project": "x", "secret": "wandb"}, "mlflow": mlflow}
    job = make_job(credentials={"storage": {"secret": "shared"}}, tracking=tracking)
    *_, train = attempt_children(job, make_plan())

    named = [{"secretRef": {"name": name}} for name in ("shared", "wandb")]
    assert first_container(train)["envFrom"] == named
    assert first_container(inspect_job(job, SETTINGS))["envFrom"] == named[:1]
    assert first_container(publish_job(job, make_file(job, make_plan()), SETTINGS))["envFrom"] == named[:1]


def test_only_pods_that_check_and_publish_the_result_get_the_registrys_login() -> None:
    job = make_job(
        credentials={"registry": {"secret": "registry-login"}}, output={"uri": "s3://m/t", "oci": "r.io/a/b:c"}
    )
    file = make_file(job, make_plan())
    train = next(body for body in attempt_objects(job, file, SETTINGS) if body["kind"] == "Job")
    assert "registry-login" not in str(train["spec"])
    for made in (inspect_job(job, SETTINGS), publish_job(job, file, SETTINGS)):
        volumes = {volume["name"]: volume for volume in made["spec"]["template"]["spec"]["volumes"]}
        sources = volumes["registry"]["projected"]["sources"]
        assert [source["secret"]["items"][0]["path"] for source in sources] == ["config.json", "ca.crt"]
        mounts = {mount["name"]: mount["mountPath"] for mount in first_container(made)["volumeMounts"]}
        named = {variable["name"]: variable.get("value") for variable in first_container(made)["env"]}
        assert named["DOCKER_CONFIG"] == mounts["registry"]
