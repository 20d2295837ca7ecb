import platform

from codistill.lab import provenance
from codistill.version import __version__


def test_versions_name_what_shapes_the_numbers() -> None:
    versions = provenance.versions()
    assert versions["python"] == platform.python_version()
    assert versions["codistill"] == __version__
    assert {"torch", "safetensors", "numpy", "scipy"} <= versions.keys()


def test_the_machine_is_described_without_its_name() -> None:
    machine = provenance.machine()
    assert machine["cores"] == provenance.cores() >= 1
    assert platform.node() not in machine.values()
