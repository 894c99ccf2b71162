"""The manifests: of valid shape, of restricted pods, whole in themselves, and open just along the arrows of the design."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import utils as kubernetes_validate
from solmu.options.v1 import access_pb2

from deploy import config
from deploy.kubernetes import generate
from deploy.local import plan, postgres
from services.runtime import contracts, mesh

OVERLAYS = ("small", "high-availability")
VERSIONS = ("1.30", "1.33", "1.36")
"""Of Kubernetes, whose schemas the manifests are held against."""

OF_CERT_MANAGER = {
    "authorisations",
    "messages",
    "exchange",
    "gateway",
    "edge",
    "operator",
    "postgres",
    "nats",
    "public",
}
OF_THE_SITE = {"solmu-root-key", "solmu-party-key", "solmu-token-keys", "solmu-clients", "solmu-client-authorities"}
"""Secrets that deploy/README.md tells how to make."""

Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> list[Manifest]:
    """What kustomize makes of an overlay."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which holds kustomize, is not on this machine")
    folder = generate.FOLDER / "overlays" / overlay
    text = subprocess.check_output(["kubectl", "kustomize", str(folder)], text=True, timeout=60)
    return list(yaml.safe_load_all(text))


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(request.param)


def kinds(manifests: list[Manifest], *wanted: str) -> Iterator[Manifest]:
    return (manifest for manifest in manifests if manifest["kind"] in wanted)


def names(manifests: list[Manifest], kind: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in kinds(manifests, kind)}


def workloads(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Each workload's name and pod."""
    for manifest in kinds(manifests, "Deployment", "StatefulSet", "Job"):
        yield manifest["metadata"]["name"], manifest["spec"]["template"]


@pytest.mark.parametrize("version", VERSIONS)
def test_they_are_what_kubernetes_takes(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        if manifest["apiVersion"].partition("/")[0] != "cert-manager.io":
            kubernetes_validate.validate(manifest, version, strict=True)


def test_no_key_stands_twice_in_a_source() -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT002
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"a key twice at {node.start_mark}"
            return super().construct_mapping(node, deep=deep)

    for file in generate.FOLDER.rglob("*.yaml"):
        list(yaml.load_all(file.read_text(), Loader=Strict))


def test_every_pod_is_restricted(manifests: list[Manifest]) -> None:
    (namespace,) = kinds(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, template in workloads(manifests):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert all("hostPath" not in volume for volume in pod.get("volumes", [])), name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert all("hostPort" not in port for port in container.get("ports", [])), name


def test_every_container_has_limits_probes_and_a_pinned_image(manifests: list[Manifest]) -> None:
    jobs = names(manifests, "Job")
    for name, template in workloads(manifests):
        for container in template["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in resources["limits"], name
            assert quantity(resources["requests"]["memory"]) <= quantity(resources["limits"]["memory"]), name
            assert re.search(r":[^/]*\d", container["image"]), container["image"]
            if name not in jobs:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name


def test_what_is_referred_to_is_there(manifests: list[Manifest]) -> None:
    maps, accounts = names(manifests, "ConfigMap"), names(manifests, "ServiceAccount")
    claims = names(manifests, "PersistentVolumeClaim")
    certificates = {one["spec"]["secretName"] for one in kinds(manifests, "Certificate")}
    assert certificates == {f"{name}-certificate" for name in OF_CERT_MANAGER}
    for name, template in workloads(manifests):
        pod = template["spec"]
        assert pod["serviceAccountName"] in accounts, name
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        volumes |= {
            claim["metadata"]["name"]
            for manifest in kinds(manifests, "StatefulSet")
            if manifest["metadata"]["name"] == name
            for claim in manifest["spec"]["volumeClaimTemplates"]
        }
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
            assert {source["configMapRef"]["name"] for source in container.get("envFrom", [])} <= maps, name
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container.get(probe, {}).get("tcpSocket", {}).get("port", "none") in ports | {"none"}, name
        for volume in pod.get("volumes", []):
            assert volume.get("configMap", {}).get("name", "none") in maps | {"none"}, name
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "none") in claims | {"none"}, name
            assert secrets_of(volume) <= certificates | OF_THE_SITE, name


def test_selectors_select(manifests: list[Manifest]) -> None:
    pods = {name: template["metadata"]["labels"] for name, template in workloads(manifests)}
    for manifest in kinds(manifests, "Deployment", "StatefulSet", "Service", "PodDisruptionBudget"):
        name = manifest["metadata"]["name"]
        selector = manifest["spec"].get("selector")
        if selector is not None:
            wanted = selector.get("matchLabels", selector)
            pod = wanted["app.kubernetes.io/name"] if manifest["kind"] == "Service" else name
            assert wanted.items() <= pods[pod].items(), name
    for scaler in kinds(manifests, "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in names(manifests, "Deployment")


def test_every_process_is_told_all_that_it_reads(manifests: list[Manifest]) -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in kinds(manifests, "ConfigMap")}
    for name, template in workloads(manifests):
        for container in template["spec"]["containers"]:
            if container["name"] not in config.PROCESSES:
                continue
            environment: dict[str, str] = {}
            for source in container.get("envFrom", []):
                environment |= maps[source["configMapRef"]["name"]]
            environment |= {one["name"]: one["value"] for one in container["env"]}
            assert config.faults(container["name"], environment, on_disk=False) == [], name
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            for variable, value in environment.items():
                if value.startswith("/"):
                    assert any(value.startswith(mount) for mount in mounts), variable


def test_generated_files_are_those_of_the_code() -> None:
    for path, content in generate.files().items():
        assert path.read_text() == content, f"{path}: run python -m deploy.kubernetes.generate"


def test_policies_allow_the_arrows_of_the_design_and_no_other(manifests: list[Manifest]) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in kinds(manifests, "NetworkPolicy")}
    assert policies["nothing-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    into, out_of = set(), set()
    for pod, spec in policies.items():
        assert spec["policyTypes"] == ["Ingress", "Egress"] or pod == "postgres-outside"
        into |= {generate.Arrow(other, pod, port) for other, port in peers(spec.get("ingress", []), "from")}
        out_of |= {generate.Arrow(pod, other, port) for other, port in peers(spec.get("egress", []), "to")}
    assert into == out_of == generate.arrows()


def test_other_organisations_nodes_reach_the_exchange_and_nothing_else(manifests: list[Manifest]) -> None:
    listening = {
        name: [port["containerPort"] for port in container["ports"] if port["name"] == "peers"]
        for name, template in workloads(manifests)
        for container in template["spec"]["containers"]
        if "SOLMU_PEER_LISTEN" in {one["name"] for one in container.get("env", [])}
    }
    assert listening == {"exchange": [generate.PEER_PORT]}
    opened = {
        (one["metadata"]["name"], direction)
        for one in kinds(manifests, "NetworkPolicy")
        for direction in ("ingress", "egress")
        for rule in one["spec"].get(direction, [])
        if {"port": generate.PEER_PORT} in rule.get("ports", [])
    }
    assert opened == {("exchange", "ingress"), ("exchange", "egress")}


def test_the_arrows_are_few() -> None:
    arrows = generate.arrows()
    assert not [arrow for arrow in arrows if arrow.target == mesh.EDGE], "nothing inside calls the edge"
    assert not [arrow for arrow in arrows if arrow.source == plan.POSTGRES], "PostgreSQL calls nobody"
    assert {arrow.source for arrow in arrows if arrow.target == plan.POSTGRES} == {
        *mesh.SERVICES,
        "provision",
        "migrate",
    }
    assert {arrow.target for arrow in arrows if arrow.source == mesh.EDGE} == {*mesh.SERVICES}


def test_every_pod_has_a_policy(manifests: list[Manifest]) -> None:
    pods = {pod["metadata"]["labels"]["app.kubernetes.io/name"] for _, pod in workloads(manifests)}
    assert pods <= names(manifests, "NetworkPolicy")


def test_a_job_for_each_service_migrates_its_database(manifests: list[Manifest]) -> None:
    said = {
        service: next(pod for name, pod in workloads(manifests) if name == f"migrate-{service}")["spec"]
        for service in mesh.SERVICES
    }
    for service, pod in said.items():
        (container,) = pod["containers"]
        assert container["command"] == ["python", "-m", "services.runtime.migrate", service]
        assert pod["volumes"][0]["secret"]["secretName"] == f"{service}-certificate"
        (address,) = [one["value"] for one in container["env"] if one["name"] == "SOLMU_DATABASE"]
        assert address == f"postgresql://{service}@postgres:5432/{service}"


def test_a_highly_available_node_survives_the_loss_of_a_machine() -> None:
    manifests = rendered("high-availability")
    (streams,) = [one["data"] for one in kinds(manifests, "ConfigMap") if "SOLMU_NODE" in one["data"]]
    assert streams["SOLMU_STREAM_REPLICAS"] == "3"
    (nats,) = kinds(manifests, "StatefulSet")
    assert nats["spec"]["replicas"] == generate.SERVERS
    assert {"authorisations", "messages", "exchange", "edge", "nats"} == names(manifests, "PodDisruptionBudget")
    assert all(scaler["spec"]["minReplicas"] >= 3 for scaler in kinds(manifests, "HorizontalPodAutoscaler"))
    (claim,) = kinds(manifests, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_certificates_have_the_names_of_the_embedded_nodes() -> None:
    for certificate in kinds(rendered("small"), "Certificate"):
        name, spec = certificate["metadata"]["name"], certificate["spec"]
        if name != "public":
            assert name in plan.INTERNAL_IDENTITIES
            assert spec["uris"] == [mesh.service_uri("solmu", name)]
            assert {name, "localhost"} <= set(spec["dnsNames"])


def test_people_log_in_where_the_component_is_named(tmp_path: Path) -> None:
    manifests = with_component(tmp_path, "small", "log-in")
    changed = [one for one in manifests if one not in rendered("small")]
    assert {(one["kind"], one["metadata"]["name"]) for one in changed} == {
        ("Deployment", "authorisations"),
        ("NetworkPolicy", "authorisations-to-identity-providers"),
    }
    for version in VERSIONS:
        for manifest in changed:
            kubernetes_validate.validate(manifest, version, strict=True)
    (policy,) = kinds(changed, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Egress"]
    ((_, template),) = workloads(changed)
    [container] = template["spec"]["containers"]
    [volume] = [one for one in template["spec"]["volumes"] if one["name"] == "identity-providers"]
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "identity-providers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["SOLMU_IDENTITY_PROVIDERS"].startswith(mount["mountPath"] + "/")
    assert volume["secret"]["secretName"] == "solmu-identity-providers"


def test_no_manifest_lets_invented_people_in(manifests: list[Manifest]) -> None:
    # A provider of invented people is on a loopback address; authorisations takes it where it is there itself.
    (settings,) = [one["data"] for one in kinds(manifests, "ConfigMap") if "SOLMU_NODE" in one["data"]]
    assert settings["SOLMU_LISTEN"] == "0.0.0.0:7443"
    for name, template in workloads(manifests):
        for container in template["spec"]["containers"]:
            assert "SOLMU_TEST_MODE" not in {one["name"] for one in container.get("env", [])}, name
    assert "SOLMU_TEST_MODE" not in settings


def peers(rules: list[Manifest], direction: str) -> Iterator[tuple[str, int]]:
    """The node's own pods in the rules of a policy, and the port."""
    for rule in rules:
        for peer in rule.get(direction, []):
            if "podSelector" in peer and "namespaceSelector" not in peer:
                (port,) = rule["ports"]
                yield peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"], port["port"]


def secrets_of(volume: Manifest) -> set[str]:
    sources = volume.get("projected", {}).get("sources", [])
    direct = {volume["secret"]["secretName"]} if "secret" in volume else set()
    return direct | {source["secret"]["name"] for source in sources}


def quantity(text: str) -> int:
    match = re.fullmatch(r"(\d+)(Mi|Gi)", text)
    assert match, text
    return int(match[1]) * {"Mi": 1, "Gi": 1024}[match[2]]


def with_component(tmp_path: Path, overlay: str, component: str) -> list[Manifest]:
    """What kustomize makes of an overlay with a component; links aside, it reads nothing outside of its folder."""
    copied = shutil.copytree(generate.FOLDER, tmp_path / "kubernetes")
    (copied / "own").mkdir()
    own = {"resources": [f"../overlays/{overlay}"], "components": [f"../components/{component}"], "namespace": "solmu"}
    (copied / "own" / "kustomization.yaml").write_text(yaml.safe_dump(own))
    text = subprocess.check_output(["kubectl", "kustomize", str(copied / "own")], text=True, timeout=60)
    made = list(yaml.safe_load_all(text))
    for version in VERSIONS:
        for manifest in made:
            if manifest["apiVersion"] in {"networking.k8s.io/v1", "v1", "apps/v1"}:
                kubernetes_validate.validate(manifest, version, strict=True)
    return made


def test_messages_has_ways_out_where_the_component_is_named(tmp_path: Path) -> None:
    before = rendered("small")
    added = [one for one in with_component(tmp_path, "small", "ways-out") if one not in before]
    assert {one["metadata"]["name"] for one in added} == {"messages-to-mail-server", "messages-to-public-https"}
    for policy in added:
        assert policy["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "messages"}
        assert policy["spec"]["policyTypes"] == ["Egress"]
    (web,) = [one for one in added if one["metadata"]["name"] == "messages-to-public-https"]
    (rule,) = web["spec"]["egress"]
    assert "10.0.0.0/8" in rule["to"][0]["ipBlock"]["except"], "nothing of the cluster is reached that way"


def test_postgresql_by_cloudnative_pg_lets_in_whom_the_nodes_own_does(tmp_path: Path) -> None:
    made = with_component(tmp_path, "high-availability", "cloudnative-pg")
    (cluster,) = kinds(made, "Cluster")
    rules = postgres.host_based_authentication(mesh.SERVICES, source="all").splitlines()
    assert cluster["spec"]["postgresql"]["pg_hba"] == rules
    assert cluster["spec"]["postgresql"]["pg_ident"] == postgres.identity_map(mesh.SERVICES).splitlines()
    assert cluster["spec"]["instances"] == 3
    assert cluster["spec"]["minSyncReplicas"] >= 1, "what is committed is on two instances"
    assert cluster["spec"]["affinity"]["topologyKey"] == "topology.kubernetes.io/zone"
    labels = cluster["spec"]["inheritedMetadata"]["labels"]
    (selected,) = [one for one in kinds(made, "NetworkPolicy") if one["metadata"]["name"] == "postgres-instances"]
    assert selected["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    secrets = {one["spec"]["secretName"] for one in kinds(made, "Certificate")}
    assert set(cluster["spec"]["certificates"].values()) <= secrets
    (service,) = [one for one in kinds(made, "Service") if one["metadata"]["name"] == "postgres"]
    assert service["spec"]["externalName"] == f"{cluster['metadata']['name']}-rw.solmu.svc.cluster.local"
    assert "postgres-outside" not in names(made, "NetworkPolicy")


def test_a_gateway_of_the_site_passes_tls_on_or_shows_that_it_is_the_edge(tmp_path: Path) -> None:
    made = with_component(tmp_path, "small", "gateway-api")
    (gateway,) = kinds(made, "Gateway")
    listeners = {one["name"]: one for one in gateway["spec"]["listeners"]}
    for route in kinds(made, "TLSRoute"):
        (parent,) = route["spec"]["parentRefs"]
        assert listeners[parent["sectionName"]]["tls"]["mode"] == "Passthrough"
        assert listeners[parent["sectionName"]]["hostname"] in route["spec"]["hostnames"]
    assert gateway["spec"]["tls"]["frontend"]["default"]["validation"]["caCertificateRefs"]
    assert gateway["spec"]["tls"]["backend"]["clientCertificateRef"]["name"] == "edge-certificate"
    routed = {
        route["spec"]["rules"][0]["backendRefs"][0]["name"]: route["spec"]["rules"][0]["matches"][0]["method"]
        for route in kinds(made, "GRPCRoute")
    }
    assert routed.keys() == set(mesh.SERVICES)
    public = {service for package in mesh.SERVICES for service in published(package)}
    for name, method in routed.items():
        matched = {service for service in public if re.fullmatch(method["service"], service)}
        assert matched == published(name), "to each service what is its own"
    checked = {policy["spec"]["targetRefs"][0]["name"]: policy for policy in kinds(made, "BackendTLSPolicy")}
    assert checked.keys() == routed.keys()
    assert all(policy["spec"]["validation"]["hostname"] == name for name, policy in checked.items())
    outside = [one["metadata"]["name"] for one in kinds(made, "Service") if one["spec"].get("type") == "LoadBalancer"]
    assert set(outside) <= {"peers"}


def published(service: str) -> set[str]:
    """The services of a contract that clients may call."""
    return {
        one.full_name
        for file in contracts.files(service)
        for one in file.services_by_name.values()
        for method in one.methods
        if method.GetOptions().Extensions[access_pb2.access].scopes
    }
