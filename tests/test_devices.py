"""Several devices in one process, and two processes that know of each other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent

DATA = """
import numpy as np
rng = np.random.default_rng(0)
groups = np.repeat(np.arange(6), 3)
values = rng.normal(size=(18, 600)) + rng.normal(size=(6, 600))[groups]
values[3, ::7] = np.nan
"""

SEVERAL = (
    DATA
    + """
import sys
import jax, jaxre
assert len(jax.local_devices()) == 4
fits = jaxre.fit_many(values, groups)
two = jaxre.fit_many(values, groups, mesh=jax.make_mesh((2,), ("any",), devices=jax.devices()[:2]))
import dataclasses
from jaxre import batches
batches.MODEST, batches.ON_CPU = 1, dataclasses.replace(batches.ON_CPU, numbers=128 * 18)  # 128 each, by 64 at a time
narrow = jaxre.fit_many(values, groups)
found = {"between": fits.between, "within": fits.within, "status": fits.status}
np.savez(sys.argv[1], two=two.between, narrow=narrow.between, **found)
"""
)

PROCESS = """
import sys
import jax, jaxre, numpy as np
from jaxre import wide

class Store:
    \"\"\"A file of columns that notes which of them it is asked for.\"\"\"
    def __init__(self, path):
        self.columns, self.asked = np.load(path, mmap_mode="r"), []
        self.shape = self.columns.shape
    def __getitem__(self, key):
        self.asked.append(key[1])
        return self.columns[key]

jax.config.update("jax_cpu_collectives_implementation", "gloo")
place, port, source, out = int(sys.argv[1]), *sys.argv[2:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=place)
assert jax.process_count() == 2
values, groups = Store(source), np.repeat(np.arange(6), 3)
part = jaxre.share(values.shape[1])
fits = jaxre.fit_many(values[:, part], groups)
assert values.asked == [part], values.asked
wide.write({"place": np.arange(part.start, part.stop)} | fits.to_dict(), out)
from jax.experimental import multihost_utils
counts = multihost_utils.process_allgather(np.array([len(fits)]))
assert counts.sum() == values.shape[1], counts
jax.distributed.shutdown()
"""


def environment(devices):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def expected():
    names: dict = {}
    exec(DATA, names)
    import jaxre

    return jaxre.fit_many(names["values"], names["groups"])


def test_four_devices_answer_as_one(tmp_path):
    command = [sys.executable, "-c", SEVERAL, str(tmp_path / "out.npz")]
    run = subprocess.run(command, env=environment(4), capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    found, one = np.load(tmp_path / "out.npz"), expected()
    np.testing.assert_allclose(found["between"], one.between, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found["two"], one.between, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found["narrow"], one.between, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found["within"], one.within, rtol=1e-13)
    np.testing.assert_array_equal(found["status"], one.status)


def test_two_processes_read_and_write_their_shares(tmp_path):
    """Each reads its own columns of a file, and no others, and writes a table of its own."""
    names: dict = {}
    exec(DATA, names)
    np.save(tmp_path / "values.npy", names["values"])
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    outs = [tmp_path / f"{place}.parquet" for place in range(2)]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(place), str(port), str(tmp_path / "values.npy"), str(out)],
            env=environment(1),
            stderr=subprocess.PIPE,
            text=True,
        )
        for place, out in enumerate(outs)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=600)
        assert run.returncode == 0, errors
    parts = [pd.read_parquet(out) for out in outs]
    assert [part["place"].tolist() for part in parts] == [[*range(300)], [*range(300, 600)]]
    table, one = pd.concat(parts), expected()
    np.testing.assert_allclose(table["between"], one.between, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(table["dropped"], one.dropped)
