"""`snakemake fetch_weights` from a mirror, and what a scale without its weights says."""

from __future__ import annotations

import yaml


def test_weights_are_fetched_from_a_mirror(workspace):
    mirror = workspace.folder / "mirror"
    (mirror / "xswu" / "HPSv2").mkdir(parents=True)
    (mirror / "xswu" / "HPSv2" / "HPS_v2.1_compressed.pt").write_bytes(b"weights")
    done = workspace.snakemake(f"--cores 1 fetch_weights --config fetch=hpsv2 mirror={mirror}")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = workspace.folder / "weights" / "hpsv2"
    assert (folder / "HPS_v2.1_compressed.pt").read_bytes() == b"weights"
    assert (folder / "SHA256SUMS").is_file()


def test_missing_weights_end_the_run_with_the_command_that_fetches_them(workspace):
    path = workspace.folder / "leapalign/configs/scales/smoke.yaml"
    scale = yaml.safe_load(path.read_text())
    scale["detector"] = "weights/geneval"
    path.write_text(yaml.safe_dump(scale))
    done = workspace.snakemake("--cores 1 --config scale=smoke all")
    assert done.returncode == 1
    assert "no weights at weights/geneval" in done.stderr
    assert "snakemake --cores 1 fetch_weights --config fetch=geneval` (2 GB of disk)" in done.stderr
    assert not list(workspace.folder.glob("results/smoke/train/*"))
