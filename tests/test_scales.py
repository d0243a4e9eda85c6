"""The scales for full-size models, which scale a machine gets, and the presets that scales take."""

import pytest

from leapalign.config import RunConfig, resolve_run
from leapalign.scales import load_scale, pick_scale


@pytest.mark.parametrize(("devices", "scale"), [("0", "flux-lora"), ("0,1,2,3,4,5,6,7", "flux")])
def test_auto_takes_the_flux_scale_that_the_devices_suffice_for(monkeypatch, devices, scale):
    monkeypatch.setenv("LEAPALIGN_DEVICES", devices)
    assert pick_scale("auto")[0] == "pocket"  # no weights
    monkeypatch.setattr("os.path.isdir", lambda path: path == "weights/flux")
    assert pick_scale("auto")[0] == scale


@pytest.mark.parametrize(
    ("method", "steps", "rank"), [("dance_grpo", 12, 128), ("flow_grpo", 6, 64)]
)
def test_a_lora_preset_has_the_authors_adapter_steps_and_rate_as_deviations(method, steps, rank):
    run = RunConfig(method=f"baselines/configs/{method}.yaml", preset="lora")
    resolved = resolve_run(method, run, "pocket", 0)
    training = resolved.train.training
    assert (training.steps, training.optimizer.lr) == (steps, 3e-4)
    assert (training.adapter.rank, training.adapter.alpha) == (rank, 2 * rank)
    assert {d.key for d in resolved.deviations} == {"steps", "optimizer.lr", "adapter"}
    assert all(d.reason for d in resolved.deviations)


def test_the_flux_lora_scale_trains_an_adapter_on_one_device_and_sd35_its_own_model_alone():
    lora, sd35 = load_scale("flux-lora"), load_scale("sd35")
    assert (lora.training.adapter.rank, lora.training.adapter.alpha) == (128, 256)
    assert (lora.compute.devices, load_scale("flux").compute.devices) == (1, 8)
    assert lora.compute.precision == "bfloat16"
    # A null key is the default, not the extended scale's.
    assert load_scale("flux").backbones
    assert not sd35.backbones
    assert (sd35.resolution, sd35.training.guidance, sd35.evaluation.guidance) == (512, 4.5, 4.5)
    assert sd35.training.iterations == 200
