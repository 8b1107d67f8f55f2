"""contrib/container, compose and kubernetes: what must fit what a server is does so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.loaded_config import load

from killable.api.http.route_roles import ACCESS

CONTRIB = Path(__file__).parents[2] / "contrib"
SETTINGS = CONTRIB / "container" / "killable.toml"
TOML = tomllib.loads(SETTINGS.read_text())
END_S = TOML["server"]["drain_s"] + 20
"""How long a stop may take: the drain, and the longest grace."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CONTRIB / name).read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [each for each in documents("kubernetes/killable.yaml") if each["kind"] == kind]
    return found


POD = of_kind("StatefulSet")["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def test_the_settings_are_ones_that_a_server_takes(tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").touch()
    file = tmp_path / "killable.toml"
    file.write_text(SETTINGS.read_text())
    server = load(file, {}, {}, None).server
    assert (server.host, server.journal) == ("0.0.0.0", "/var/lib/killable/jobs.journal")
    assert TOML["caps"]["grace_s"] == "20s"


def test_a_pod_has_the_time_that_a_stop_takes_and_so_has_compose() -> None:
    assert POD["terminationGracePeriodSeconds"] >= END_S + CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    compose = yaml.safe_load((CONTRIB / "compose/compose.yaml").read_text())["services"]["killable"]
    assert int(compose["stop_grace_period"].removesuffix("s")) >= END_S


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_ask_routes_that_need_no_key_by_a_name_that_is_allowed(probe: str) -> None:
    asked = CONTAINER[probe]["httpGet"]
    assert ACCESS["GET", asked["path"]].role is None
    assert {each["name"]: each["value"] for each in asked["httpHeaders"]} == {"Host": "localhost"}
    assert asked["path"] == ("/readyz" if probe == "readinessProbe" else "/livez"), "one that is full is not restarted"


def test_a_pod_is_restricted_as_kubernetes_calls_it() -> None:
    assert POD["securityContext"]["runAsNonRoot"] and POD["securityContext"]["seccompProfile"]
    own = CONTAINER["securityContext"]
    assert (own["allowPrivilegeEscalation"], own["capabilities"]) == (False, {"drop": ["ALL"]})
    written = {each["mountPath"] for each in CONTAINER["volumeMounts"]}
    assert own["readOnlyRootFilesystem"] and written == {"/tmp", str(Path(TOML["server"]["journal"]).parent)}
    assert POD["enableServiceLinks"] is False, "KILLABLE_PORT would be taken for a setting"


def test_one_journal_has_one_server() -> None:
    stateful = of_kind("StatefulSet")["spec"]
    assert stateful["replicas"] == 1
    assert stateful["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_selectors_find_the_pod_and_ports_its_port() -> None:
    labels = of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Service")["spec"]["selector"] == labels
    for kind, name in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert of_kind(kind)["spec"][name]["matchLabels"] == labels
    (port,) = CONTAINER["ports"]
    assert port == {"name": "http", "containerPort": TOML["server"]["port"]}
    (monitor,) = documents("kubernetes/servicemonitor.yaml")
    assert monitor["spec"]["selector"]["matchLabels"] == labels
    (endpoint,) = monitor["spec"]["endpoints"]
    host = endpoint["relabelings"][0]["replacement"].rpartition(":")[0]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics") and host in TOML["server"]["allowed_hosts"]


def test_memory_holds_what_workers_may_take() -> None:
    assert (TOML["limits"]["memory_bytes"], CONTAINER["resources"]["limits"]["memory"]) == ("1GiB", "3Gi")
    assert TOML["pools"]["main"]["workers"] < 3


def test_prometheus_asks_a_name_that_is_allowed_with_the_key_that_it_gets() -> None:
    (scrape,) = yaml.safe_load((CONTRIB / "compose/prometheus.yml").read_text())["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    assert target.rpartition(":")[0] in TOML["server"]["allowed_hosts"]
    prometheus = yaml.safe_load((CONTRIB / "compose/compose.yaml").read_text())["services"]["prometheus"]
    assert f"> {scrape['authorization']['credentials_file']})" in prometheus["entrypoint"][2]
    assert "KILLABLE_API_KEY" in prometheus["environment"]


def test_compose_gives_containers_files_that_are_there_in_a_way_that_docker_and_podman_know() -> None:
    compose = yaml.safe_load((CONTRIB / "compose/compose.yaml").read_text())
    assert not compose.keys() & {"configs", "secrets"}, "podman-compose leaves them out, without a word"
    mounted = [each.split(":") for service in compose["services"].values() for each in service["volumes"]]
    for source, _, *mode in mounted:
        if source.startswith("."):
            assert (CONTRIB / "compose" / source).exists() and mode == ["ro"]
        else:
            assert source in compose["volumes"]
    kept = [target for source, target, *_ in mounted if source == "metrics"]
    assert f"--storage.tsdb.path={kept[0]}" in compose["services"]["prometheus"]["command"]


def test_the_image_is_built_of_what_the_package_is_made_of_and_nothing_else_of_a_checkout() -> None:
    build = (CONTRIB / "container/Containerfile").read_text().partition(" AS build")[2].partition("\nFROM ")[0]
    words = [line.split()[1:-1] for line in build.splitlines() if line.startswith("COPY ")]
    copied = {Path(word).relative_to("killable") for each in words for word in each}
    project = tomllib.loads((CONTRIB.parent / "pyproject.toml").read_text())
    tools = project["tool"]["setuptools"]
    files = [file for each in tools["data-files"].values() for file in each]
    made_of = ["pyproject.toml", "LICENSE", project["project"]["readme"], *tools["package-dir"].values(), *files]
    needed = {one for one in copied for each in made_of if Path(each).is_relative_to(one)}
    assert copied == needed and all(any(Path(each).is_relative_to(one) for one in copied) for each in made_of)


def test_the_image_runs_as_a_number_that_is_not_root_and_without_an_init() -> None:
    lines = (CONTRIB / "container/Containerfile").read_text().splitlines()
    user = next(line for line in lines if line.startswith("USER "))
    assert re.fullmatch(r"USER [1-9]\d+", user) and int(user.split()[1]) == POD["securityContext"]["runAsUser"]
    assert 'ENTRYPOINT ["killable"]' in lines and not [line for line in lines if "tini" in line and line[0] != "#"]
